"""Evaluation: avg@n with an interval over problems, tokens and truncation; same engine, same rewards as training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from longthink.collect import Grading, Journal, Progress, Scored, sample_and_score
from longthink.data import prompt_ids
from longthink.engines.base import Stream
from longthink.errors import TaskError
from longthink.folder import Tokenizer
from longthink.rewards.pool import Grader
from longthink.rng import derive_seed
from longthink.stats import mean_interval, pass_at_k
from longthink.tables import RolloutSettings
from longthink.tasks.base import Task
from longthink.types import Request, RolloutId, Sampling

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """The scored samples of an evaluation; row i of `samples` holds problem i's."""

    samples: tuple[tuple[Scored, ...], ...]
    window: int

    @property
    def scored(self) -> list[Scored]:
        """All samples, problem by problem."""
        return [pair for row in self.samples for pair in row]

    @property
    def scores(self) -> list[list[float]]:
        """Scores per problem and sample; a sample our side failed to grade is left out."""
        return [[v.score for _, v in row if v.score is not None] for row in self.samples]

    def by_domain(self) -> dict[str, float]:
        """avg@n of each named domain."""
        found: dict[str, list[float]] = {}
        for row in self.samples:
            scores = [v.score for _, v in row if v.score is not None]
            if scores and row[0][0].problem.domain:
                found.setdefault(row[0][0].problem.domain, []).append(sum(scores) / len(scores))
        return {domain: sum(means) / len(means) for domain, means in found.items()}

    def summary(self) -> dict[str, Any]:
        """The numbers of a summary.json entry. Accuracy is avg@n, the interval is over problems (95 %, t)."""
        graded = [row for row in self.scores if row]
        if not graded:
            raise TaskError("not one sample could be graded: every verdict is our own failure; look at their status and detail")
        interval = mean_interval(graded, bounded=True)
        rollouts = [r for row in self.samples for r, _ in row]
        return {
            "accuracy": interval.mean,
            "pass_at_n": sum(pass_at_k(len(row), sum(s >= 1.0 for s in row), len(row)) for row in graded) / len(graded),
            "low": interval.low,
            "high": interval.high,
            "mean_tokens": sum(r.num_tokens for r in rollouts) / len(rollouts),
            "truncated": sum(r.truncated for r in rollouts) / len(rollouts),
            "problems": len(self.samples),
            "samples": len(self.samples[0]),
            "ungraded": sum(v.score is None for row in self.samples for _, v in row),
            "window": self.window,
        }


def evaluate(
    engine: Stream,
    pool: Grader,
    tasks: Mapping[str, Task],
    grading: Grading,
    tokenizer: Tokenizer,
    *,
    split: str,
    problems: int,
    samples: int,
    window: int,
    sampling: Sampling,
    seed: int,
    limits: RolloutSettings,
    journal: Journal,
    progress: Progress,
) -> Evaluation:
    """Sample and grade the first `problems` of a split of each domain, `samples` times each; one that meets the window scores 0.

    Draws are keyed by (seed, split, domain, problem, sample): two models evaluated alike meet the same problems and
    the same draws, so their difference can be paired. Asking for more problems than there are takes all.
    """
    requests, number = [], 0
    for domain, task in tasks.items():
        size = task.size(split)
        for index in range(problems if size is None else min(problems, size)):
            problem = replace(task.problem(split, index), domain=domain)
            number += 1
            ids = prompt_ids(tokenizer, problem, limits)
            if ids is None:
                continue
            for sample in range(samples):
                draw = derive_seed(seed, "evaluate", split, *([domain] if domain else []), index, sample)
                requests.append(Request(RolloutId(number - 1, sample), problem, ids, window, sampling, draw))
    if not requests:
        raise TaskError(f"the {split} split has no problem to evaluate on; fix `task` in the recipe")
    plain, asked = Grading(grading.rewards), RolloutSettings()
    scored = sample_and_score(
        engine, pool, tokenizer, requests, grading=plain, settings=asked, journal=journal, progress=progress
    )
    return Evaluation(_rows(scored, samples), window)


def _rows(scored: Sequence[Scored], samples: int) -> tuple[tuple[Scored, ...], ...]:
    return tuple(tuple(scored[i : i + samples]) for i in range(0, len(scored), samples))
