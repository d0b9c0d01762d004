"""Which rollouts are trained on, by hand for each paper's rule."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import scored_group

from longthink.advantage import advantages
from longthink.errors import RecipeError
from longthink.recipe import parse_recipe
from longthink.selection import in_band, leave_out_truncated
from longthink.selection import select as chosen_from
from longthink.tables import AdvantageSettings, SelectionSettings
from longthink.types import Batch

PLAIN = SelectionSettings()


def select(groups, settings, truncated):
    """What is chosen of these groups under a rule for truncated responses."""
    return chosen_from([leave_out_truncated(g, truncated) for g in groups], settings)


QS = SelectionSettings(questions="longer_right")
RS = SelectionSettings(responses="pair")


def test_nothing_set_changes_nothing():
    groups = [scored_group((1.0, 5), (0.0, 100)), scored_group((0.0, 5), (0.0, 6))]
    assert select(groups, PLAIN, "zero") == groups


# -- the band ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "changes", "kept"),
    [
        ((0, 0, 0, 1), {}, True),
        ((0, 0, 0, 0), {}, False),
        ((1, 1, 1, 1), {}, False),
        ((0, 0, 0, 1), {"low": 0.25, "high": 0.75}, True),  # the ends belong to the band
        ((0, 0, 0, 0, 1), {"low": 0.25}, False),
        ((0, 1, 1, 1), {"high": 0.5}, False),
        ((0.01, 0.05, 0.05, 0.01), {}, True),  # partial credit looks like a mixed group
        ((0.01, 0.05, 0.05, 0.01), {"tolerance": 0.1}, False),
        ((0.01, 0.05, 0.05, 1.0), {"tolerance": 0.1}, True),
        ((0.5, 0.5, 0.5), {}, False),  # inside by its mean, but without a signal
    ],
)
def test_band_by_hand(scores, changes, kept):
    group = scored_group(*((s, 5) for s in scores))
    assert in_band(group, SelectionSettings(**changes)) is kept


def test_the_band_is_about_accuracy_unless_the_recipe_says_reward():
    group = replace(scored_group((1.0, 5), (1.0, 9)), rewards=(1.0, 0.9))  # a length part tells them apart
    assert not in_band(group, PLAIN)
    assert in_band(group, SelectionSettings(metric="reward"))


# -- truncated responses -----------------------------------------------------------------------------------------

ORM = scored_group((1.0, 5), (0.0, 6), (0.0, 100), (1.0, 7))


def advantage_of(group):
    batch = advantages(Batch.of([group]), AdvantageSettings(epsilon=0.0))
    return [float(batch.advantages[batch.row == row][-1]) for row in range(len(batch))], batch


def test_still_3_leaves_truncated_responses_out_of_mean_and_spread():
    """Rewards 1 0 1 are left: mean 2/3, unbiased variance 1/3."""
    (group,) = select([ORM], PLAIN, "exclude")
    values, batch = advantage_of(group)
    root = np.sqrt(1 / 3)
    assert values == pytest.approx([1 / 3 / root, -2 / 3 / root, 0.0, 1 / 3 / root])
    assert batch.loss_mask.sum() == 5 + 6 + 7


def test_dapo_leaves_them_out_of_the_loss_alone():
    """Rewards 1 0 0 1: mean 1/2, unbiased variance 1/3; the truncated one has an advantage and no tokens in the loss."""
    (group,) = select([ORM], PLAIN, "mask")
    values, batch = advantage_of(group)
    root = np.sqrt(1 / 3)
    assert values == pytest.approx([0.5 / root, -0.5 / root, -0.5 / root, 0.5 / root])
    assert batch.loss_mask.sum() == 5 + 6 + 7


def test_groups_without_contrast_among_those_that_ended_teach_nothing():
    group = leave_out_truncated(scored_group((1.0, 5), (1.0, 6), (0.0, 100)), "exclude")
    assert group.constant and not in_band(group, PLAIN)
    masked = leave_out_truncated(scored_group((1.0, 5), (1.0, 6), (0.0, 100)), "mask")
    assert not masked.constant and in_band(masked, PLAIN)  # the truncated one still moves the mean


def test_a_group_that_met_the_window_altogether_is_dropped():
    assert select([scored_group((0.0, 100), (0.0, 100))], PLAIN, "exclude") == []


# -- STILL-3's selections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        (((1, 30), (1, 10), (0, 15)), True),  # 20 against 15
        (((1, 30), (1, 10), (0, 20)), False),  # equal means do not satisfy "above"
        (((1, 10), (0, 90)), False),
        (((1, 10), (1, 20)), False),  # nothing wrong to compare with
        (((0, 10), (0, 20)), False),
    ],
)
def test_question_selection_by_hand(members, kept):
    assert bool(select([scored_group(*members)], QS, "zero")) is kept


def test_response_selection_takes_the_longest_right_and_the_shortest_wrong():
    group = scored_group((1, 20), (0, 30), (1, 40), (0, 10), (0, 60))
    (pair,) = select([group], RS, "zero")
    assert pair.trained == (False, False, True, True, False) and pair.counted == ()
    values, batch = advantage_of(pair)
    root = np.sqrt(0.3)  # rewards 1 0 1 0 0: mean 0.4, unbiased variance 0.3
    assert values[2:4] == pytest.approx([0.6 / root, -0.4 / root])
    assert batch.loss_mask.sum() == 40 + 10


def test_a_pairs_advantages_may_be_its_own():
    group = scored_group((1, 20), (0, 30), (1, 40), (0, 10), (0, 60))
    (pair,) = select([group], SelectionSettings(responses="pair", pair_advantage="pair"), "zero")
    values, _ = advantage_of(pair)
    assert values[2:4] == pytest.approx([0.5 / np.sqrt(0.5), -0.5 / np.sqrt(0.5)])


@pytest.mark.parametrize("members", [((1, 20), (0, 30)), ((1, 30), (0, 30)), ((1, 20), (1, 30)), ((0, 20), (0, 30))])
def test_no_pair_no_group(members):
    assert select([scored_group(*members)], RS, "zero") == []


def test_a_truncated_response_cannot_be_half_of_a_pair():
    group = scored_group((1, 20), (0, 10), (1, 100))
    (pair,) = select([group], RS, "exclude")
    assert pair.trained == (True, True, False)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 120)), min_size=2, max_size=8))
def test_what_is_selected_was_there_and_a_pair_is_two(members):
    group = scored_group(*members)
    for settings in (PLAIN, QS, RS):
        for rule in ("zero", "exclude", "mask"):
            for chosen in select([group], settings, rule):
                assert chosen.rollouts == group.rollouts and chosen.rewards == group.rewards
                assert settings is not RS or sum(chosen.trained) == 2
                if rule != "zero":
                    assert not any(t and r.truncated for t, r in zip(chosen.trained, chosen.rollouts, strict=False))


# -- what a recipe may not say -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection": {"questions": "longer_right"}, "rollout": {"group_size": 1}}, "a group of one has no advantage"),
        ({"selection": {"dynamic": "shrink", "low": 0.9, "high": 0.1}}, "above selection.high"),
        ({"selection": {"pair_advantage": "pair"}}, "needs selection.responses"),
        ({"selection": {"dynamic": "shrink", "metric": "reward", "low": 0.1}}, "a band of accuracy"),
        ({"selection": {"low": 0.2, "high": 0.8}}, "selection.low does nothing"),
        ({"rollout": {"truncated_reward": -2.0}}, "truncated_reward does nothing"),
        ({"selection": {"oversample": 2.0}}, "needs selection.dynamic"),
        ({"selection": {"dynamic": "shrink"}, "loss": {"kind": "nll"}}, "none to compare"),
        ({"rollout": {"truncated": "mask"}, "loss": {"kind": "nll"}}, "is for loss.kind = 'grpo'"),
    ],
)
def test_contradictory_selections_are_refused(changes, words):
    base = {"name": "r", "model": {"path": "m"}, "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}}
    with pytest.raises(RecipeError, match=words):
        parse_recipe(base | changes, "r")
