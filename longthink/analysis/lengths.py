"""How long right and wrong responses are, when the right answer first comes up, and what is spent after it."""

from collections.abc import Sequence
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.results import Answers, Evaluated, Sample
from longthink.part import load_part
from longthink.reports.page import BLUE, ORANGE
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool
from longthink.stats import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["first_hits", "lengths", "overthinking", "pieces"]

MAX_PIECES = 100  # of a response's thinking, each asked for the right answer
MAX_SAMPLES = 2000  # looked at in one evaluation
BINS = 24


def lengths(evaluated: Evaluated, name: str) -> Exhibit:
    """The distribution of tokens of correct and incorrect responses; means are over samples."""
    graded = [s for row in evaluated.sets[name].graded for s in row]
    kinds = {"correct": [s.tokens for s in graded if s.solved], "incorrect": [s.tokens for s in graded if not s.solved]}
    rows = [(kind, len(own), fmean(own), *_quartiles(own), max(own)) for kind, own in kinds.items() if own]
    means = {row[0]: row[2] for row in rows}
    said = f"{evaluated.name}: " + ", ".join(f"{kind} responses have {mean:,.0f} tokens" for kind, mean in means.items())

    def draw(axes: "Axes") -> None:
        span = (0, max(map(max, filter(None, kinds.values()))))
        axes.hist(kinds["correct"], bins=BINS, range=span, color=BLUE, alpha=0.55, label="correct")
        axes.hist(kinds["incorrect"], bins=BINS, range=span, histtype="step", hatch="///", color=ORANGE, label="incorrect")

    columns = ("responses", "number", "mean", "1st quartile", "median", "3rd quartile", "longest")
    title = f"Tokens of responses: {evaluated.name}, {name}"
    return Exhibit(stem("lengths", evaluated.name, name), title, "", columns, rows, said, ("tokens", "responses"), draw)


def _quartiles(values: Sequence[int]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (float(values[0]),) * 3
    first, middle, last = quantiles(values, n=4, method="inclusive")
    return first, middle, last


def overthinking(found: Sequence[Evaluated], name: str) -> Exhibit:
    """Tokens up to the first right answer inside the thinking and tokens after it, of responses whose thinking has one.

    Each piece of the thinking is asked, as a response without the place for an answer is, for what might be its answer; the first
    whose guess is right is where the right answer came up. Tokens are counted by characters, in proportion. The answer of a
    wrong response may have been right on the way: `lost` is the share of wrong responses where it was.
    """
    rows: list[tuple[Any, ...]] = []
    for evaluated in found:
        answers = evaluated.sets[name]
        if any(p.get("gold") is None for p in answers.problems) or "reward" not in answers.facts:
            rows.append((evaluated.name, *(None,) * 6))
            continue
        hits = first_hits(answers)
        right = [[(s, at) for s, at in row if s.solved and at is not None] for row in hits]
        before = mean_interval([[s.tokens * at for s, at in row] for row in right if row]) if any(right) else None
        after = mean_interval([[s.tokens * (1.0 - at) for s, at in row] for row in right if row]) if any(right) else None
        wrong = [at is not None for row in hits for s, at in row if not s.solved]
        share = 100 * fmean(wrong) if wrong else None
        spent = [v for i in (before, after) for v in ((i.mean, i.high - i.mean) if i else (None, None))]
        rows.append((evaluated.name, *spent, sum(map(len, right)), share))
    columns = ("model", "tokens to it", "±", "tokens after it", "±", "right responses", "wrong that had it %")
    title = f"Tokens to the first right answer, and after: {name}"
    said = "" if any(row[5] or row[6] for row in rows) else "No right answer could be read out of any thinking."
    return Exhibit(stem("overthinking", name), title, "", columns, rows, said)


def first_hits(answers: Answers) -> list[list[tuple[Sample, float | None]]]:
    """Each sample with the share of its text at which its thinking first held the right answer; None where it did not."""
    reward = load_part(Reward, {**dict(answers.facts["reward"]), "think": "template"})
    most = MAX_SAMPLES // max(1, len(answers.problems))
    looked = [[s for s in row if s.score is not None][: max(1, most)] for row in answers.samples]
    with RewardPool(reward, 1) as pool:
        for i, row in enumerate(looked):
            for j, sample in enumerate(row):
                for k, (piece, _) in enumerate(pieces(sample.text)):
                    pool.submit((i, j, k), piece, answers.problems[i]["gold"])
        verdicts: dict[Any, Any] = pool.drain()
    found: list[list[tuple[Sample, float | None]]] = []
    for i, row in enumerate(looked):
        found.append([])
        for j, sample in enumerate(row):
            judged = ((end, verdicts[i, j, k]) for k, (_, end) in enumerate(pieces(sample.text)))
            ends = (end for end, v in judged if max(v.score or 0.0, v.detail.get("lenient") or 0.0) >= 1.0)
            found[-1].append((sample, next(ends, None)))
    return found


def pieces(text: str) -> list[tuple[str, float]]:
    """The thinking cut after lines, sentences and commas into at most MAX_PIECES, each with the share of the text where it ends.

    >>> pieces("3 + 4 = 7, so 7. </think> 7")
    [('3 + 4 = 7,', 0.37037037037037035), (' so 7.', 0.5925925925925926)]
    """
    thinking = text.partition("</think>")[0]
    ends = [i + 1 for i, c in enumerate(thinking) if c in "\n,;" or (c in ".!?" and thinking[i + 1 : i + 2].isspace())]
    ends = [e for e in ends if e < len(thinking)] + ([len(thinking)] if thinking.strip() else [])
    ends = ends[:: 1 + (len(ends) - 1) // MAX_PIECES] if ends else []
    cuts = zip([0, *ends[:-1]], ends, strict=True) if ends else []
    return [(thinking[a:b], b / len(text)) for a, b in cuts if thinking[a:b].strip()]
