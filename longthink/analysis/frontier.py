"""Accuracy × tokens: which evaluations are dominated, and SIRI's score of what accuracy was bought at what length."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from longthink.stats import Interval, paired_difference

__all__ = ["Point", "dominations", "efficiency"]


class Point(NamedTuple):
    """An evaluation as accuracy against tokens, and both per problem, for pairing: scores and tokens of its samples."""

    name: str
    accuracy: Interval
    tokens: Interval
    scores: Sequence[Sequence[float]]
    lengths: Sequence[Sequence[float]]


class Domination(NamedTuple):
    """Who is better in both, and whether that is beyond chance: both paired 95 % intervals leave 0 out."""

    by: str
    sure: bool


def dominations(points: Sequence[Point]) -> dict[str, Domination]:
    """The dominated ones: another has at least the accuracy with at most the tokens, and is better in one.

    Of several the one that dominates beyond chance is named, then the most accurate. Raises: ValueError where problems differ.
    """
    found = {}
    for own in points:
        better = [p for p in points if p is not own and _better(p, own)]
        if better:
            judged = [Domination(p.name, _surely(p, own)) for p in sorted(better, key=lambda p: -p.accuracy.mean)]
            found[own.name] = next((d for d in judged if d.sure), judged[0])
    return found


def _better(a: Point, b: Point) -> bool:
    ours, theirs = (a.accuracy.mean, -a.tokens.mean), (b.accuracy.mean, -b.tokens.mean)
    return all(x >= y for x, y in zip(ours, theirs, strict=True)) and ours != theirs


def _surely(a: Point, b: Point) -> bool:
    return paired_difference(a.scores, b.scores).low > 0 and paired_difference(a.lengths, b.lengths).high < 0


def efficiency(own: Mapping[str, tuple[float, float]], first: Mapping[str, tuple[float, float]]) -> float:
    """SIRI's ΔAcc/CR of a model against the one it was trained from; both give (accuracy, mean tokens) by benchmark.

    ΔAcc = max(accuracy / accuracy₀ - 1, 0) and CR = tokens / tokens₀ for each benchmark the model has; the score is the mean
    of ΔAcc over the mean of CR. Raises: ValueError for a benchmark that `first` lacks or solved nothing of.
    Source: SIRI, table 1 and its footnote; a ratio of means is what gives its numbers (papers: 0.476, 0.389 for 0.47, 0.38).

    >>> round(efficiency({"a": (0.6, 50.0), "b": (0.4, 150.0)}, {"a": (0.5, 100.0), "b": (0.5, 100.0)}), 3)  # 0.1 over 1
    0.1
    """
    if not own or any(first.get(name, (0.0, 0.0))[0] <= 0.0 for name in own):
        raise ValueError("a benchmark has no accuracy above 0 to begin with; ΔAcc is relative to it")
    gains = fmean(max(accuracy / first[name][0] - 1.0, 0.0) for name, (accuracy, _) in own.items())
    return gains / fmean(tokens / first[name][1] for name, (_, tokens) in own.items())
