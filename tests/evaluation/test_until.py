"""Sampling until the interval is tight: estimates without bias, counted out exactly; the whole procedure by simulation."""

import itertools
import math

import numpy as np
import pytest

from longthink.evaluation.until import FIRST, MOST, Rule, estimate, needed, plan, rules


def stopped(rule, outcomes):
    """The samples a problem takes of an endless row of them."""
    n = FIRST
    while (wanted := needed(rule, outcomes[:n])) != n:
        n = wanted
    return outcomes[:n]


@pytest.mark.parametrize("scale", [0.0, 9.0, 14.0, 20.0, 1000.0])
@pytest.mark.parametrize("chance", [0.1, 0.5, 0.83])
def test_estimates_have_no_bias(scale, chance):
    rule = Rule(scale, most=10)
    mean = variance = square = weight = 0.0
    for row in itertools.product([True, False], repeat=10):
        p = math.prod(chance if right else 1 - chance for right in row)
        found, spread = estimate(rule, stopped(rule, row))
        weight, mean, variance, square = weight + p, mean + p * found, variance + p * spread, square + p * found**2
    assert weight == pytest.approx(1.0)
    assert mean == pytest.approx(chance, abs=1e-12)
    assert variance == pytest.approx(square - mean**2, abs=1e-12)  # the stated variance is that of the estimate


def test_stopping_by_one_s_own_samples_would_be_biased():
    rule, chance = Rule(14.0, most=10), 0.1
    rows = itertools.product([True, False], repeat=10)
    means = ((math.prod(chance if r else 1 - chance for r in row), stopped(rule, row)) for row in rows)
    assert abs(sum(p * sum(taken) / len(taken) for p, taken in means) - chance) > 0.003


def test_rules_by_hand():
    assert Rule(0.0, most=20).looks() == (4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 20)
    assert needed(Rule(0.0), []) == FIRST and needed(Rule(0.0), [True] * 4) == 4
    assert needed(Rule(100.0), [True, False, True, False]) == 5  # half of 100 are wanted, and it looks again at five
    assert estimate(Rule(0.0), [True, False, False, False]) == (0.25, 0.0625)  # s² / n = (1/4) / 4
    with pytest.raises(ValueError, match="goes on after 4"):
        estimate(Rule(100.0), [True, False, True, False])
    with pytest.raises(ValueError, match="expected at least one"):
        rules([], 0.1)


def test_a_problem_s_own_first_samples_do_not_set_its_rule():
    others = [0, 4, 2, 1, 3]
    found = {own: rules([own, *others], half=0.03)[0] for own in range(FIRST + 1)}
    assert len(set(found.values())) == 1
    assert rules([2, 2, 2, 2], 0.02)[0].scale > rules([4, 0, 4, 0], 0.02)[0].scale == 1.0


def simulate(chances, half, draw):
    rows = [(draw.random(MOST) < p).tolist() for p in chances]
    counts = [0] * len(rows)
    while (found := plan([row[:n] for row, n in zip(rows, counts, strict=True)], half)).interval is None:
        counts = found.wanted
    return found.interval, sum(counts)


@pytest.mark.parametrize(("half", "shape"), [(0.06, (0.5, 0.5)), (0.05, (1.0, 3.0))])
def test_the_whole_procedure_by_simulation(half, shape):
    draw = np.random.default_rng(5)
    chances = draw.beta(*shape, size=30)
    found = [simulate(chances, half, draw) for _ in range(80)]
    means = np.array([interval.mean for interval, _ in found])
    truth = chances.mean()
    assert abs(means.mean() - truth) < 3.5 * means.std() / math.sqrt(len(means))
    assert all(i.high - i.low <= 2 * half + 1e-12 for i, _ in found)
    assert 0.9 <= np.mean([i.low <= truth <= i.high for i, _ in found]) <= 0.99


def test_samples_go_where_problems_are_undecided():
    rows = [*[[True] * MOST] * 10, *[[False] * MOST] * 10, *[[bool(i % 2) for i in range(MOST)]] * 10]
    counts = [0] * 30
    while (found := plan([row[:n] for row, n in zip(rows, counts, strict=True)], 0.02)).interval is None:
        counts = found.wanted
    assert min(counts[20:]) > 2 * max(counts[:20])
    assert plan([row[: n + 7] for row, n in zip(rows, counts, strict=True)], 0.02) == found  # more samples change nothing
