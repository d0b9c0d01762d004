"""Difficulty pools: who is drawn, who rests, who returns."""

import json

import pytest

from longthink.errors import RecipeError
from longthink.pools import Pools
from longthink.recipe import parse_recipe
from longthink.tables import PoolSettings


def test_a_problems_pool_is_that_of_its_last_draws():
    pools = Pools(PoolSettings(memory=2), seed=0)
    assert pools.pool("p") == "new"
    seen = []
    for scores in ([0, 0], [0, 1], [1, 1], [1, 1], [0, 0]):  # means of the last two: 0, 0.25, 0.75, 1, 0.5
        pools.record("p", scores, step=1)
        seen.append(pools.pool("p"))
    assert seen == ["hard", "middle", "middle", "easy", "middle"]


@pytest.mark.parametrize(("solved", "rule"), [(1.0, {"retire_right": 2}), (0.0, {"retire_wrong": 2})])
def test_always_or_never_solved_problems_rest_and_return(solved, rule):
    pools = Pools(PoolSettings(rest_steps=3, **rule), seed=0)
    pools.record("p", [solved] * 4, step=5)
    assert pools.takes("p", 0, 6)
    pools.record("p", [solved] * 4, step=6)
    assert [pools.takes("p", 0, step) for step in (7, 8, 9, 10)] == [False, False, False, True]
    assert pools.counts(6)["pool/resting"] == 1.0 and pools.counts(9)["pool/resting"] == 0.0


def test_a_mixed_draw_breaks_the_row():
    pools = Pools(PoolSettings(retire_right=2, rest_steps=3), seed=0)
    for step, scores in enumerate(([1, 1], [1, 0], [1, 1])):
        pools.record("p", scores, step)
    assert pools.takes("p", 0, 3)


def test_pools_are_drawn_by_their_weights():
    """Weight 0.25 beside 1: a quarter of the turns, within five standard errors of 4,000 draws; 0 is never drawn."""
    pools = Pools(PoolSettings(easy=0.25, hard=0.0), seed=3)
    pools.record("easy", [1.0], 1)
    pools.record("hard", [0.0], 1)
    taken = sum(pools.takes("easy", turn, 2) for turn in range(4000))
    assert abs(taken - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert not any(pools.takes("hard", turn, 2) for turn in range(100))
    assert all(pools.takes("new", turn, 2) for turn in range(100))


def test_state_survives_json():
    pools = Pools(PoolSettings(retire_right=1, easy=0.5), seed=3)
    for step in range(6):
        pools.record(f"p{step % 3}", [float(step % 2)], step)
    other = Pools(PoolSettings(retire_right=1, easy=0.5), seed=3)
    other.restore(json.loads(json.dumps(pools.state(5))), 5)
    names = ["p0", "p1", "p2", "p3"]
    assert [other.takes(n, t, 50) for n in names for t in range(20)] == [pools.takes(n, t, 50) for n in names for t in range(20)]
    assert other.counts(6) == pools.counts(6)


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ({"hard_below": 0.9}, "expected below pools.easy_above"),
        ({"new": 0.0}, "drawn a first time"),
        ({"new": 0.0, "hard": 0.0, "middle": 0.0, "easy": 0.0}, "no problem could be drawn"),
    ],
)
def test_contradictory_pools_are_refused(pools, words):
    base = {"name": "r", "model": {"path": "m"}, "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}}
    with pytest.raises(RecipeError, match=words):
        parse_recipe(base | {"pools": pools}, "r")


def test_a_branch_counts_its_own_steps():
    """What rests for 3 more steps after step 500 of the parent rests for 3 steps of the child."""
    pools = Pools(PoolSettings(retire_right=1, rest_steps=3), seed=0)
    pools.record("p", [1.0], 500)
    child = Pools(PoolSettings(retire_right=1, rest_steps=3), seed=0)
    child.restore(pools.state(500), 0)
    assert [child.takes("p", 0, step) for step in (1, 2, 3, 4)] == [False, False, False, True]


def test_a_state_is_the_same_whether_it_was_read_back_or_not():
    """Also of a problem whose first rest had ended when the state was written."""
    settings = PoolSettings(retire_wrong=1, rest_steps=1)
    whole, read = Pools(settings, seed=0), Pools(settings, seed=0)
    whole.record("b", [0.0], 1)
    whole.record("a", [0.0], 4)
    read.restore(json.loads(json.dumps(whole.state(4))), 4)
    for pools in (whole, read):
        pools.record("b", [0.0], 5)
    assert json.dumps(whole.state(5)) == json.dumps(read.state(5))
