"""How the parts of a reward add up, what a recipe may not say of them, and that real parts are graded in the workers."""

import pytest
from support import scored_group

from longthink.errors import RecipeError
from longthink.recipe import parse_recipe
from longthink.shape import Parts


def rewards(tables, group, truncated_reward=None):
    pairs = list(zip(group.rollouts, group.verdicts, strict=True))
    return [reward for reward, _ in Parts(tables).rewards(pairs, truncated_reward)]


def test_without_parts_the_score_is_the_reward():
    assert rewards([], scored_group((1.0, 5), (0.25, 5), (None, 5))) == [1.0, 0.25, 0.0]


def test_open_rs_weights_by_hand():
    """Format 1 and accuracy 2, as Open-RS weighs them."""
    group = scored_group((1.0, 5), (1.0, 5), (0.0, 5), parts=[{"format": 1.0}, {"format": 0.0}, {"format": 1.0}])
    tables = [{"kind": "accuracy", "weight": 2.0}, {"kind": "format", "style": "open_rs", "weight": 1.0}]
    assert rewards(tables, group) == [3.0, 2.0, 1.0]
    assert str(Parts(tables)) == "2 · accuracy + 1 · format"


def test_still_3s_gate_takes_everything():
    group = scored_group((1.0, 5), (1.0, 5), parts=[{"gate": 1.0}, {"gate": 0.0}])
    tables = [{"kind": "accuracy"}, {"kind": "format", "style": "still", "gate": True, "name": "gate"}]
    assert rewards(tables, group) == [1.0, 0.0]
    assert str(Parts(tables)) == "(1 · accuracy) · gate"


def test_a_gate_forgives_no_penalty():
    """A wrong answer is -1; one that did not end is no better off for its coefficient of 0."""
    group = scored_group((1.0, 5), (0.0, 5), (0.0, 100))
    tables = [{"kind": "accuracy", "wrong": -1.0}, {"kind": "stop", "gate": True}]
    assert rewards(tables, group) == [1.0, -1.0, -1.0]


def test_no_rollouts_no_rewards():
    assert Parts([{"kind": "kimi"}, {"kind": "actions"}]).rewards([], -1.0) == []


def test_a_truncated_response_is_penalised_whatever_its_parts():
    group = scored_group((1.0, 5), (0.0, 100))
    assert rewards([{"kind": "accuracy"}, {"kind": "length", "weight": 5.0}], group, -1.0) == [1.25, -1.0]
    assert rewards([], group, -2.0) == [1.0, -2.0]


def test_a_rollout_our_side_failed_to_score_has_no_reward_of_its_length():
    group = scored_group((None, 50), (1.0, 50))
    assert rewards([{"kind": "length"}], group) == [0.0, 0.5]


def test_values_of_the_parts_are_reported():
    group = scored_group((1.0, 50), parts=[{"format": 1.0}])
    pairs = list(zip(group.rollouts, group.verdicts, strict=True))
    ((_, parts),) = Parts([{"kind": "accuracy"}, {"kind": "format"}, {"kind": "length"}]).rewards(pairs, None)
    assert parts == {"accuracy": 1.0, "format": 1.0, "length": 0.5}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([{"kind": "acuracy"}], "did you mean accuracy"),
        ([{"weight": 1.0}], "shape.0: kind is None"),
        ([{"kind": "accuracy", "weight": "much"}], "weight is 'much', expected a number"),
        ([{"kind": "accuracy", "gate": 1}], "gate = true or false"),
        ([{"kind": "stop", "gate": True, "weight": 2.0}], "a gate multiplies and has no weight"),
        ([{"kind": "accuracy"}, {"kind": "cosine", "max_lenght": 5}], r"shape\.1, kind cosine: unknown key max_lenght"),
        ([{"kind": "overlong"}], "buffer"),
        ([{"kind": "cosine", "unit": "characters"}], "set max_length"),
        ([{"kind": "language", "scripts": ["chinese"]}], "begins with CHINESE"),
    ],
)
def test_tables_that_are_no_parts_are_refused(tables, words):
    with pytest.raises(RecipeError, match=words):
        Parts(tables)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([{"kind": "accuracy"}, {"kind": "accuracy"}], "accuracy is there twice"),
        ([{"kind": "format", "name": "a"}, {"kind": "length", "name": "a"}], "a is there twice"),
        ([{"kind": "accuracy", "weight": 0.0}, {"kind": "length", "weight": 0}], "every weight is 0"),
        ([{"kind": "stop", "gate": True}], "all are gates"),
        ([{"kind": "overlong", "buffer": 192}], "no smaller than the smallest window, 192"),
    ],
)
def test_contradictory_parts_are_refused(shape, words):
    base = {"name": "r", "model": {"path": "m"}, "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}}
    with pytest.raises(RecipeError, match=words):
        parse_recipe(base | {"shape": shape}, "r")
