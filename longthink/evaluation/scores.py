"""What an evaluation's samples amount to: avg@n with two intervals, pass@k, maj@k, tokens, shares, and tables by label."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from longthink.errors import TaskError
from longthink.evaluation.results import Answers, Sample
from longthink.evaluation.until import plan
from longthink.evaluation.votes import Ballot, majority_curve
from longthink.stats import best_at_k, pass_at_k, score_interval

__all__ = ["ballots", "by_domain", "outcomes", "summary", "tokens_of", "tool_use", "unbiased"]

UNFINISHED = ("no_answer", "truncated")


def summary(answers: Answers, seed: int, until: float = 0.0) -> dict[str, Any]:
    """One benchmark's numbers. Problems weigh the same, whatever their number of samples.

    `accuracy` is avg@n; `low` and `high` are for a new test like this one, `low_here` and `high_here` for this one sampled for
    ever. `pass_at_k` for all k up to the fewest samples of a problem is of responses with the full score, `best_at_k` of
    the scores themselves, `maj_at_k` by resampling. `completed` is the share of samples that ended with an answer. With `until`
    the accuracy is the unbiased estimate of the share solved. Raises: TaskError where not one sample could be graded.
    """
    graded, every = answers.graded, answers.every
    if not graded:
        raise TaskError(f"{answers.name}: not one sample could be graded; look at their status and detail in samples.jsonl")
    scores = answers.scores
    if odd := next((s for row in scores for s in row if not 0.0 <= s <= 1.0), None):
        raise TaskError(f"{answers.name}: a score is {odd}, and a benchmark's are from 0 to 1; choose another verifier")
    n, most = min(map(len, scores)), max(map(len, scores))
    taken = plan(outcomes(scores), until) if until else None
    chances = [[chance] for chance in taken.chances] if taken else scores
    new = score_interval(chances or scores)
    here = (taken.interval if taken else None) or score_interval(scores, over="samples")
    mean = here.mean
    scores = [row[:n] for row in scores] if until else scores
    asked = {"until": until} if until else {}
    fractions = any(0.0 < s < 1.0 for row in scores for s in row)
    found: dict[str, Any] = asked | {
        "accuracy": mean,
        "low": min(new.low, mean),
        "high": max(new.high, mean),
        "low_here": here.low,
        "high_here": here.high,
        "problems": len(answers.samples),
        "samples": len(every),
        "n": [n, most],
        "ungraded": len(every) - sum(map(len, graded)),
        "tokens": tokens_of(graded),
        "truncated": _mean_share(answers.samples, lambda s: s.truncated),
        "completed": _mean_share(
            answers.samples, lambda s: s.score is not None and not s.truncated and s.status not in UNFINISHED
        ),
        "statuses": dict(sorted(Counter(s.status for s in every).items())),
        "pass_at_k": [fmean(pass_at_k(len(r), sum(s >= 1.0 for s in r), k) for r in scores) for k in range(1, n + 1)],
        "maj_at_k": majority_curve(ballots(graded), seed)._asdict(),
    }
    if any(s.calls for s in every):
        found["tool"] = tool_use([s for row in graded for s in row])
    if fractions:
        found["best_at_k"] = [fmean(best_at_k(r, k) for r in scores) for k in range(1, n + 1)]
    for label in dict.fromkeys(label for p in answers.problems for label in p.get("labels", ())):
        found[f"by_{label}"] = _by_label(answers, label, chances or answers.scores)
    return found


def tool_use(samples: Sequence[Sample]) -> dict[str, float]:
    """Calls of a sample, the share of samples with one, the share of calls that failed, the mean score with calls and without.

    Who calls differs from who does not: the two scores are no effect of calling.
    """
    every = [status for s in samples for status in s.calls]
    apart = {"with": [s.score or 0.0 for s in samples if s.calls], "without": [s.score or 0.0 for s in samples if not s.calls]}
    shares = {"calls": len(every) / len(samples), "used": len(apart["with"]) / len(samples)}
    shares |= {"failed": sum(status != "ok" for status in every) / max(len(every), 1)}
    return shares | {f"score_{name}": fmean(scores) for name, scores in apart.items() if scores}


def by_domain(numbers: Mapping[str, Mapping[str, Any]], domains: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The mean over the benchmarks of each domain, every one weighing the same; the interval as for independent benchmarks."""
    found = {}
    for domain in dict.fromkeys(domains.values()):
        own = [name for name in numbers if domains.get(name) == domain]
        mean = fmean(numbers[name]["accuracy"] for name in own)
        down, up = (
            math.sqrt(sum((numbers[n][end] - numbers[n]["accuracy"]) ** 2 for n in own)) / len(own) for end in ("low", "high")
        )
        tokens = fmean(numbers[name]["tokens"]["mean"] for name in own)
        bounds = {"low": max(0.0, mean - down), "high": min(1.0, mean + up)}
        found[domain] = {"accuracy": mean, **bounds, "tokens": tokens, "benchmarks": own}
    return found


def tokens_of(rows: Sequence[Sequence[Sample]]) -> dict[str, float | None]:
    """Mean tokens of a response: all (problems weigh the same), and of the solved and the other samples (samples do)."""
    right = [s.tokens for row in rows for s in row if s.solved]
    wrong = [s.tokens for row in rows for s in row if not s.solved]
    return {
        "mean": fmean(fmean(s.tokens for s in row) for row in rows),
        "correct": fmean(right) if right else None,
        "incorrect": fmean(wrong) if wrong else None,
        "total": float(sum(right) + sum(wrong)),
    }


def ballots(rows: Sequence[Sequence[Sample]]) -> list[list[Ballot]]:
    """The votes of each problem's samples."""
    return [[Ballot(s.vote, s.score or 0.0, s.tokens) for s in row] for row in rows]


def unbiased(scores: Sequence[Sequence[float]], until: float) -> list[list[float]]:
    """The scores by problem; where all was taken until it was known, each problem's estimate without bias in their place."""
    chances = plan(outcomes(scores), until).chances if until else []
    return [[chance] for chance in chances] or [list(row) for row in scores]


def outcomes(scores: Sequence[Sequence[float]]) -> list[list[bool]]:
    """Whether each sample has the full score."""
    return [[s >= 1.0 for s in row] for row in scores]


def _mean_share(rows: Sequence[Sequence[Sample]], test: Callable[[Sample], bool]) -> float:
    return fmean(fmean(test(s) for s in row) for row in rows if row)


def _by_label(answers: Answers, label: str, each: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """avg@n with its interval over problems, tokens and size of each value of a label, the frequent ones first.

    `each` holds the scores of the graded problems, or their estimates.
    """
    found: dict[str, list[list[Sample]]] = {}
    scores: dict[str, list[Sequence[float]]] = {}
    able = [p for p, row in zip(answers.problems, answers.samples, strict=True) if any(s.score is not None for s in row)]
    for problem, row, own in zip(able, answers.graded, each, strict=True):
        if value := problem.get("labels", {}).get(label):
            found.setdefault(value, []).append(row)
            scores.setdefault(value, []).append(own)
    table = {}
    for value, rows in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        interval = score_interval(scores[value])
        solved = fmean(any(s.solved for s in row) for row in rows)
        tokens = fmean(fmean(s.tokens for s in row) for row in rows)
        facts = {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
        table[value] = facts | {"mean_tokens": tokens, "solved_once": solved, "problems": float(len(rows))}
    return table
