"""Sampling until the interval over samples is as tight as asked: more samples where a problem is undecided, and no bias.

A problem's mean over a number of samples that depends on those samples is biased: stopping when a streak looks sure keeps the
streak. So every problem follows a rule of its own, fixed before its own samples beyond the first round are seen, and its
score is estimated by counting paths, which has no bias whatever the rule.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longthink.stats import Interval, t_quantile, wilson

__all__ = ["FIRST", "MOST", "Plan", "Rule", "estimate", "needed", "plan", "rules", "solved_interval"]

Weights = NDArray[np.float64]
FIRST = 4  # samples of every problem in the first round
GROWTH = 1.1  # a problem looks at its own samples again when it has so many times as many
MOST = 1024  # samples of one problem
STEPS = 8  # of a scale in each octave, so that few rules differ
PRIOR = 0.5


class Plan(NamedTuple):
    """Where sampling stands: how many samples each problem must have; once all are there, each one's chance, and the interval."""

    wanted: list[int]
    chances: list[float]
    interval: Interval | None


class Rule(NamedTuple):
    """When a problem stops: at the first look where it has `scale` times its standard deviation in samples, or `most`.

    The deviation is that of a Bernoulli trial with chance (solved + 1/2) / (n + 1).
    """

    scale: float
    most: int = MOST

    def looks(self) -> tuple[int, ...]:
        """The numbers of samples at which the rule is asked."""
        return _looks(self.most)

    def stops(self, n: int, solved: int) -> bool:
        """Whether a problem with so many solved of n samples is done."""
        return n >= self.most or n >= self.scale * _deviation(n, solved)


@lru_cache
def _looks(most: int) -> tuple[int, ...]:
    found = [min(FIRST, most)]
    while found[-1] < most:
        found.append(min(max(found[-1] + 1, math.ceil(GROWTH * found[-1])), most))
    return tuple(found)


def _deviation(n: int, solved: int) -> float:
    chance = (solved + PRIOR) / (n + 2 * PRIOR)
    return math.sqrt(chance * (1.0 - chance))


def plan(outcomes: Sequence[Sequence[bool]], half: float, most: int = MOST) -> Plan:
    """What is still to be sampled for an interval of this half-width, from the samples so far, each problem's in their order.

    Depends on nothing else, so that an interrupted evaluation goes on as it would have. Samples beyond what the rules ask for are
    not looked at. Ends when the interval is tight enough or every problem has `most` samples.

    >>> plan([[True] * 4, [False] * 3], half=0.3)
    Plan(wanted=[4, 4], chances=[], interval=None)
    """
    if any(len(row) < FIRST for row in outcomes):
        return Plan([FIRST] * len(outcomes), [], None)
    raised = 0
    while True:
        made = rules([sum(row[:FIRST]) for row in outcomes], half, raised=raised, most=most)
        wanted = [needed(rule, row) for rule, row in zip(made, outcomes, strict=True)]
        if any(n > len(row) for n, row in zip(wanted, outcomes, strict=True)):
            return Plan(wanted, [], None)
        pairs = [estimate(rule, row[:n]) for rule, row, n in zip(made, outcomes, wanted, strict=True)]
        found = solved_interval(pairs, sum(wanted))
        if found.high - found.low <= 2 * half or min(wanted) >= most:
            return Plan(wanted, [chance for chance, _ in pairs], found)
        raised += 1


def rules(first: Sequence[int], half: float, *, raised: int = 0, confidence: float = 0.95, most: int = MOST) -> list[Rule]:
    """A rule for each problem, from the solved ones among the FIRST samples of every *other* problem.

    Samples in proportion to a problem's standard deviation give the least variance for their number (Neyman's allocation). The
    scale K is the least, in steps of an eighth of an octave, at which Σ s²/max(n, Kσ) ≤ (P half / z)² over the first samples.
    Where the interval is found too wide when all have stopped, they go on with K `raised` by a step: that depends on all samples
    and so may bring a bias; simulated, it is below a tenth of a point (docs/evaluation.md).
    Raises: ValueError unless half is positive and there is a problem.

    >>> rules([4, 0, 2], half=0.05)[0].scale == rules([0, 0, 2], half=0.05)[0].scale  # its own samples do not matter
    True
    """
    if not first or half <= 0.0:
        raise ValueError(f"{len(first)} problems, half-width {half}; expected at least one, and above 0")
    z = t_quantile(0.5 + confidence / 2, max(1, FIRST * len(first)))
    wanted = (len(first) * half / z) ** 2
    counts = Counter(first)
    more = 2.0 ** (raised / STEPS)
    others = {own: tuple(sorted((counts - Counter([own])).items())) for own in counts}
    found = {own: Rule(more * _scale(others[own], wanted * (len(first) - 1) / len(first)), most) for own in counts}
    return [found[solved] for solved in first]


@lru_cache(maxsize=1024)
def _scale(others: tuple[tuple[int, int], ...], wanted: float) -> float:
    """The least scale at which the variances of so many problems, with so many solved, add up to no more than is wanted."""
    if not others:
        return MOST / 0.5
    step = 0
    while True:
        scale = float(2.0 ** (step / STEPS))
        spread = ((c * (FIRST - c) / FIRST / (FIRST - 1), _deviation(FIRST, c), many) for c, many in others)
        if math.fsum(many * s2 / max(FIRST, scale * deviation) for s2, deviation, many in spread) <= wanted or scale > 2 * MOST:
            return scale
        step += 1


def needed(rule: Rule, outcomes: Sequence[bool]) -> int:
    """How many samples a problem must have before it is judged again: those of its next look, or as many as it stopped at."""
    solved = seen = 0
    for look in rule.looks():
        if look > len(outcomes):
            return look
        solved, seen = solved + sum(outcomes[seen:look]), look
        if rule.stops(look, solved):
            return look
    return rule.most


def estimate(rule: Rule, outcomes: Sequence[bool]) -> tuple[float, float]:
    """The chance of solving, and the variance of that estimate, of a problem that has stopped; neither has a bias.

    Of all orders of successes and failures that stop where this problem did, the share that begin with a success is the chance
    (E[X₁ | where it stopped]); the share that begin with two is an unbiased estimate of its square, and the variance is the
    square of the estimate less that. Raises: ValueError when the problem has not stopped there.
    Source: Girshick, Mosteller and Savage, Ann. Math. Stat. 17 (1946), unbiased estimates for binomial sampling plans.

    >>> estimate(Rule(scale=0.0), [True, False, True, True])  # one look at four samples: the mean, and s²/n
    (0.75, 0.0625)
    """
    n, solved = len(outcomes), sum(outcomes)
    if needed(rule, outcomes) != n:
        raise ValueError(f"the rule goes on after {n} samples with {solved} solved")
    every, one, two = (float(_paths(rule, n, begun)[solved]) for begun in (0, 1, 2))
    chance, square = one / every, two / every
    return chance, chance * chance - square


def _paths(rule: Rule, n: int, begun: int) -> Weights:
    """[n + 1] for each number solved of n: the orders that reach it without stopping before and begin with `begun` successes.

    Counted in units of 2^n, so that those of long rules stay within a float.
    """
    walked = _walk(rule, begun)
    while begun + len(walked) <= n:
        at = begun + len(walked) - 1
        weights = walked[-1]
        if at in rule.looks():
            weights = np.where([rule.stops(at, c) for c in range(at + 1)], 0.0, weights)
        walked.append((np.append(weights, 0.0) + np.append(0.0, weights)) / 2.0)
    return walked[n - begun]


@lru_cache(maxsize=1024)
def _walk(rule: Rule, begun: int) -> list[Weights]:
    """The paths counted so far, from `begun` samples on: `_paths` goes on where it was left."""
    return [np.array([0.0] * begun + [0.5**begun])]


def solved_interval(estimates: Sequence[tuple[float, float]], samples: int, confidence: float = 0.95) -> Interval:
    """The mean chance of solving over these very problems, from each one's estimate and variance, with its interval."""
    mean = math.fsum(chance for chance, _ in estimates) / len(estimates)
    variance = max(0.0, math.fsum(v for _, v in estimates)) / len(estimates) ** 2
    return wilson(min(max(mean, 0.0), 1.0), variance, samples, max(1, samples - len(estimates)), confidence)
