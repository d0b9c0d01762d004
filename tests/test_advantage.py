import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.advantage import advantages
from longthink.tables import AdvantageSettings, LossSettings
from longthink.types import Batch, Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

PLAIN = AdvantageSettings(std="none", epsilon=0.0)
EXACT = AdvantageSettings(std="unbiased", epsilon=0.0)


def batch_of(*rewards_per_group):
    """Groups with these rewards; rollout k of a group has k + 1 response tokens after a prompt of two."""
    groups = []
    for g, rewards in enumerate(rewards_per_group):
        problem = Problem(str(g), (), gold=None)
        rollouts = tuple(
            Rollout(RolloutId(g, k), problem, np.array([7, 8]), (policy(k + 1),), "stop", Sampling(), 16)
            for k in range(len(rewards))
        )
        groups.append(Group(problem, rollouts, tuple(Verdict(r, "ok") for r in rewards), tuple(rewards)))
    return Batch.of(groups)


def policy(count):
    return Segment("policy", np.arange(count), np.zeros(count, np.float32))


def tool(count):
    return Segment("tool", np.arange(count))


def per_rollout(batch, settings=EXACT):
    """One advantage a rollout, after checking that all its tokens carry the same one."""
    done = advantages(batch, settings)
    assert done.advantages.shape == batch.tokens.shape
    values = [set(done.advantages[batch.row == row].tolist()) for row in range(len(batch))]
    assert all(len(v) == 1 for v in values)
    return [v.pop() for v in values]


@pytest.mark.parametrize(
    ("settings", "winner", "loser"),
    [
        (EXACT, 1.5, -0.5),  # mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4
        (PLAIN, 0.75, -0.25),
        (AdvantageSettings(), 0.75 / 0.500001, -0.25 / 0.500001),
        (AdvantageSettings(epsilon=1e-4), 0.75 / 0.5001, -0.25 / 0.5001),
        (AdvantageSettings(std="none", epsilon=1e-4), 0.75, -0.25),  # epsilon belongs to the std
    ],
)
def test_one_winner_in_four(settings, winner, loser):
    assert per_rollout(batch_of([1, 0, 0, 0]), settings) == [np.float32(winner)] + [np.float32(loser)] * 3


def test_the_recipes_defaults_are_the_unbiased_std_and_a_millionth():
    assert AdvantageSettings() == AdvantageSettings(std="unbiased", epsilon=1e-6)


def test_two_rollouts_by_hand():
    # mean 1/2, unbiased variance 1/2: each lies sqrt(1/2) away from the mean in units of the std
    assert per_rollout(batch_of([1, 0])) == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_groups_do_not_see_each_other():
    both = per_rollout(batch_of([1, 0, 0, 0], [5, 3]))
    assert both == per_rollout(batch_of([1, 0, 0, 0])) + per_rollout(batch_of([5, 3]))


@pytest.mark.parametrize("settings", [EXACT, PLAIN, AdvantageSettings()])
@pytest.mark.parametrize("rewards", [[0.0] * 4, [1.0] * 4, [0.1] * 7, [1e20] * 3, [-0.3] * 11, [1.0], [0.0], [-2.5]])
def test_equal_rewards_and_single_rollouts_give_exactly_zero(rewards, settings):
    assert per_rollout(batch_of(rewards), settings) == [0.0] * len(rewards)


def test_a_rounded_mean_would_not_have_given_zero():
    rewards = np.array([0.1] * 7)
    assert rewards.mean() != 0.1  # what makes the case above worth testing


def test_every_token_carries_its_rollouts_value_also_around_a_tool_segment():
    problem = Problem("p", (), gold=None)
    prompt = np.array([7, 8])
    first = Rollout(RolloutId(0, 0), problem, prompt, (policy(2), tool(3), policy(1)), "stop", Sampling(), 16)
    second = Rollout(RolloutId(0, 1), problem, prompt, (policy(4),), "length", Sampling(), 16)
    batch = Batch.of([Group(problem, (first, second), (Verdict(1.0, "ok"), Verdict(0.0, "ok")), (1.0, 0.0))])
    done = advantages(batch, PLAIN)
    assert done.advantages.tolist() == [0.5] * 8 + [-0.5] * 6
    assert batch.loss_mask.tolist() == [False] * 2 + [True] * 2 + [False] * 3 + [True] + [False] * 2 + [True] * 4


def test_the_result_is_float32_and_the_rest_of_the_batch_is_untouched():
    batch = batch_of([1, 0, 0, 0])
    done = advantages(batch, AdvantageSettings())
    assert done.advantages.dtype == np.float32
    assert batch.advantages is None
    assert done.tokens is batch.tokens
    assert done.rewards is batch.rewards


# rewards of a real verifier, on a grid fine enough that sums of squares are exact in float64
GRID = st.integers(-64, 64).map(lambda k: k / 64)
GROUPS = st.lists(st.lists(GRID, min_size=1, max_size=9), min_size=1, max_size=5)
SETTINGS = st.builds(
    AdvantageSettings,
    baseline=st.sampled_from(["group_mean", "leave_one_out"]),
    std=st.sampled_from(["unbiased", "none"]),
    epsilon=st.sampled_from([0.0, 1e-6, 1e-4, 0.5]),
)


def cut(values, groups):
    values = iter(values)
    return [[next(values) for _ in group] for group in groups]


@given(GROUPS, SETTINGS)
def test_the_advantages_of_a_group_sum_to_zero_and_follow_the_rewards(groups, settings):
    for rewards, found in zip(groups, cut(per_rollout(batch_of(*groups), settings), groups), strict=True):
        assert sum(found) == pytest.approx(0, abs=1e-6 * len(found) * max(map(abs, found)))
        assert [np.sign(a) for a in found] == [
            np.sign(round(len(rewards) * r - sum(rewards), 9)) if len(set(rewards)) > 1 else 0 for r in rewards
        ]
        assert np.argsort(found, kind="stable").tolist() == np.argsort(rewards, kind="stable").tolist()


@given(GROUPS, SETTINGS, st.randoms(use_true_random=False))
def test_the_order_of_rollouts_and_of_groups_is_irrelevant(groups, settings, random):
    numbered = [[(r, g, k) for k, r in enumerate(group)] for g, group in enumerate(groups)]
    moved = [random.sample(group, len(group)) for group in random.sample(numbered, len(numbered))]
    places = [(g, k) for group in moved for _, g, k in group]
    before = per_rollout(batch_of(*groups), settings)
    after = per_rollout(batch_of(*[[r for r, _, _ in group] for group in moved]), settings)
    names = [(g, k) for g, group in enumerate(groups) for k in range(len(group))]
    expected = dict(zip(names, before, strict=True))
    assert after == [pytest.approx(expected[place], rel=1e-6) for place in places]


@given(st.lists(GRID, min_size=2, max_size=9), st.integers(-8, 8), st.sampled_from([0.25, 2.0, 8.0]))
def test_with_the_std_a_shift_or_a_scale_of_the_rewards_changes_nothing(rewards, shift, scale):
    assert per_rollout(batch_of([scale * r + shift for r in rewards])) == pytest.approx(per_rollout(batch_of(rewards)), rel=1e-6)


@given(st.lists(GRID, min_size=2, max_size=9).filter(lambda r: len(set(r)) > 1))
def test_the_squares_sum_to_n_minus_one(rewards):
    assert sum(a * a for a in per_rollout(batch_of(rewards))) == pytest.approx(len(rewards) - 1, rel=1e-5)


def test_leave_one_out_by_hand():
    """RLOO: each against the mean of the others: 1 - 0, and 0 - 1/3."""
    settings = AdvantageSettings(baseline="leave_one_out", std="none")
    assert per_rollout(batch_of([1, 0, 0, 0]), settings) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert per_rollout(batch_of([0.5, 0.25]), settings) == [0.25, -0.25]


def test_whitening_by_hand():
    """Rollouts of 1 and 2 tokens with 1/2 and -1/2: mean -1/6 over three tokens, unbiased variance 1/3."""
    settings = AdvantageSettings(std="none", whiten=True)
    found = per_rollout(batch_of([1, 0]), settings)
    assert found == pytest.approx([(1 / 2 + 1 / 6) / math.sqrt(1 / 3), (-1 / 2 + 1 / 6) / math.sqrt(1 / 3)])
    assert per_rollout(batch_of([1, 0], [1, 1]), settings)[2:] == [0.0, 0.0]
    assert per_rollout(batch_of([1, 1], [0, 0]), settings) == [0.0] * 4


@given(GROUPS)
def test_whitened_tokens_have_mean_zero_and_variance_one_where_no_group_is_constant(groups):
    groups = [g for g in groups if len(set(g)) > 1] or [[0.0, 1.0]]
    batch = advantages(batch_of(*groups), AdvantageSettings(std="none", whiten=True))
    tokens = batch.advantages[batch.loss_mask].astype(np.float64)
    assert tokens.mean() == pytest.approx(0, abs=1e-5) and tokens.std(ddof=1) == pytest.approx(1, abs=1e-4)


# -- who counts, and the KL in the reward ------------------------------------------------------------------------


def test_only_counted_rollouts_make_the_mean_and_the_spread() -> None:
    batch = batch_of([1.0, 0.0, 0.0, 0.0])
    masked = advantages(batch.with_(counted=np.array([True, True, False, True])), AdvantageSettings(epsilon=0.0))
    values = [float(masked.advantages[batch.row == row][0]) for row in range(4)]
    assert values == pytest.approx([2 / 3 / math.sqrt(1 / 3), -1 / 3 / math.sqrt(1 / 3), 0.0, -1 / 3 / math.sqrt(1 / 3)])


def test_one_counted_rollout_has_no_advantage() -> None:
    batch = batch_of([1.0, 0.0])
    done = advantages(batch.with_(counted=np.array([True, False])), AdvantageSettings())
    assert not done.advantages.any()


def kl_batch() -> Batch:
    """Two responses whose old policy lies 1, 2 and 3 nats, and half a nat, above the reference at their trained tokens."""
    batch = batch_of([1.0, 0.0, 0.0, 1.0])
    away = np.zeros(len(batch.tokens), np.float32)
    for row, steps in ((3, (1.0, 2.0, 3.0)), (1, (0.5,))):
        places = np.flatnonzero((batch.row == row) & batch.loss_mask)[: len(steps)]
        away[places] = steps
    return batch.with_(old_logprobs=away, reference_logprobs=np.zeros_like(away))


def test_kl_in_the_reward_goes_to_the_end_of_the_response() -> None:
    """k1 estimates 1 2 3: a token loses the coefficient times 6, 5 and 3, one after the last nothing."""
    batch = kl_batch()
    loss = LossSettings(kl=0.1, kl_in="reward", kl_estimator="k1")
    plain = advantages(batch, AdvantageSettings(), loss, 0.0)
    done = advantages(batch, AdvantageSettings(), loss, 0.1)
    lost = (plain.advantages - done.advantages)[(batch.row == 3) & batch.loss_mask]
    assert lost[:3] == pytest.approx([0.6, 0.5, 0.3], abs=1e-6) and not lost[3:].any()
    other = (plain.advantages - done.advantages)[(batch.row == 1) & batch.loss_mask]
    assert other[0] == pytest.approx(0.05, abs=1e-6) and not other[1:].any()


def test_kl_in_the_reward_is_not_shared_between_responses() -> None:
    batch = kl_batch()
    loss = LossSettings(kl=0.1, kl_in="reward", kl_estimator="k1")
    turned = advantages(batch.select(np.array([3, 1, 0, 2])), AdvantageSettings(), loss, 0.1)
    done = advantages(batch, AdvantageSettings(), loss, 0.1)
    for row, there in ((3, 0), (1, 1), (0, 2), (2, 3)):
        assert np.array_equal(done.advantages[batch.row == row], turned.advantages[turned.row == there])


def test_whitening_with_a_kl_in_the_reward_takes_every_trained_token() -> None:
    batch = kl_batch().with_(rewards=np.ones(4))
    loss = LossSettings(kl=0.1, kl_in="reward", kl_estimator="k1")
    done = advantages(batch, AdvantageSettings(whiten=True), loss, 0.1)
    tokens = done.advantages[batch.loss_mask].astype(np.float64)
    assert tokens.mean() == pytest.approx(0.0, abs=1e-6) and tokens.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
