"""Majority votes against every subset counted out, and answers that are one answer."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest

from longthink.evaluation.votes import Ballot, classes, majority_curve, powers
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool


def brute_force(ballots, k, *, replace=False):
    """The expected score of the most frequent answer, over every subset, ties shared."""
    chosen = list(itertools.product(ballots, repeat=k) if replace else itertools.combinations(ballots, k))
    total = Fraction(0)
    for subset in chosen:
        counts = Counter(b.vote for b in subset if b.vote is not None)
        if counts:
            most = max(counts.values())
            winners = [name for name, n in counts.items() if n == most]
            worth = [next(b.score for b in ballots if b.vote == name) for name in winners]
            total += Fraction(sum(worth)) / len(winners)
    return float(total / len(chosen))


CASES = {
    "a majority": [Ballot(0, 1.0, 5), Ballot(0, 1.0, 5), Ballot(2, 0.0, 5)],
    "a tie": [Ballot(0, 1.0, 5), Ballot(1, 0.0, 5), Ballot(None, 0.0, 9), Ballot(None, 0.0, 9)],
    "nobody votes": [Ballot(None, 0.0, 5)] * 3,
    "many": [Ballot(0, 1.0, 1), Ballot(0, 1.0, 2), Ballot(2, 0.0, 3), Ballot(2, 0.0, 4), Ballot(4, 0.0, 5), Ballot(None, 0.0, 6)],
}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equals_brute_force(name, replace):
    ballots = CASES[name]
    ks = range(1, len(ballots) + 1)
    found = majority_curve([ballots], seed=3, ks=ks, trials=20_000, replace=replace)
    for k, mean in zip(found.k, found.mean, strict=True):
        assert mean == pytest.approx(brute_force(ballots, k, replace=replace), abs=0.015)  # four standard errors at most


def test_by_hand():
    certain = majority_curve([CASES["a majority"], CASES["nobody votes"]], seed=0, ks=[3])
    assert certain.mean == (0.5,) and certain.std == (0.0,)  # the one is always right, the other never
    assert certain.tokens == (15.0,)
    assert majority_curve([CASES["many"]], 0) == majority_curve([CASES["many"]], 0)
    assert powers(6) == [1, 2, 4, 6] and powers(8) == [1, 2, 4, 8]


def test_no_votes_are_an_error():
    with pytest.raises(ValueError, match="nobody votes"):
        majority_curve([[]], 0)
    with pytest.raises(ValueError, match="3 samples; give fewer"):
        majority_curve([CASES["a majority"]], 0, ks=[4])
    assert majority_curve([CASES["a majority"]], 0, ks=[9], trials=10, replace=True).k == (9,)


def test_equal_answers_are_one_class():
    reward = load_part(Reward, {"kind": "math"})
    given = {
        "p": [("1/2", 1.0), ("0.5", 1.0), ("3", 0.0), ("6/2", 0.0), (None, 0.0), ("x", 0.0), ("3", 0.0)],
        "q": [("3", 0.0), ("4", 0.0)],
    }
    with RewardPool(reward, 1) as pool:
        found = classes(given, reward, pool)
    assert found == {"p": [0, 0, 2, 2, None, 5, 2], "q": [0, 1]}


def test_answers_that_are_no_golds_are_compared_as_text():
    reward = load_part(Reward, {"kind": "countdown"})
    with RewardPool(reward, 1) as pool:
        found = classes({0: [("1 + 2", 1.0), ("2 + 1", 1.0), ("4", 0.0), ("4 ", 0.0)]}, reward, pool)
    assert found == {0: [0, 0, 2, 3]}


def test_answers_that_are_none_are_classes_of_their_own():
    with RewardPool(reward := load_part(Reward, {"kind": "math"}), 1) as pool:
        given = [("3", 0.0), (r"\text{}", 0.0), ("$", 0.0), ("6/2", 0.0), (".", 0.0)]
        assert classes({0: given}, reward, pool) == {0: [0, 1, 2, 0, 4]}
