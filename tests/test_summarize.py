from dataclasses import replace

import numpy as np
import pytest
from support import scored_group

from longthink import summarize as module
from longthink.types import Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict


def summarize(groups, generated, unscored=(), cap=0):
    """The metrics of groups whose rollouts are all that was sampled, but for the unscored."""
    scored = [pair for g in groups for pair in zip(g.rollouts, g.verdicts, strict=True)]
    return module.summarize([*scored, *unscored], groups, generated, cap)


def group(number, *rollouts):
    """A group of (length, reward, status, finish reason); a length of two numbers is a policy and a tool segment."""
    problem = Problem(str(number), (), gold=None)
    made = tuple(
        Rollout(RolloutId(number, k), problem, np.array([9, 9, 9]), segments(length), reason, Sampling(), 16)
        for k, (length, _, _, reason) in enumerate(rollouts)
    )
    verdicts = tuple(Verdict(reward, status) for _, reward, status, _ in rollouts)
    return Group(problem, made, verdicts, tuple(reward for _, reward, _, _ in rollouts))


def segments(length):
    sizes = length if isinstance(length, tuple) else (length,)
    return tuple(Segment(source, np.zeros(n, np.int64)) for source, n in zip(("policy", "tool"), sizes, strict=False))


MIXED = group(0, (4, 1.0, "ok", "stop"), (10, 0.0, "ok", "stop"), (16, 0.0, "truncated", "length"), (6, 1.0, "ok", "stop"))
WRONG = group(1, (2, 0.0, "no_answer", "stop"), ((3, 1), 0.0, "ok", "stop"))


def test_two_groups_by_hand():
    row = summarize([MIXED, WRONG], 1000)
    verdicts = {k: row.pop(k) for k in list(row) if k.startswith("verdict/")}
    assert row == pytest.approx(
        {
            "tokens/generated": 1042,
            "tokens/step": 42,  # 4 + 10 + 16 + 6 + 2 + (3 + 1): response tokens, the prompts' three are not among them
            "group/count": 2,
            "reward/mean": 2 / 6,
            "reward/group_std/mean": ((1 / 3) ** 0.5 + 0) / 2,  # 1 0 0 1: squares of 1/2 sum to 1, over n - 1 = 3
            "group/constant_share": 0.5,
            "group/all_right_share": 0.0,
            "group/all_wrong_share": 0.5,
            "group/cap_teaches_share": 0.5,  # the first has right answers below the window and a response that met it
            "length/mean": 42 / 6,
            "length/min": 2,
            "length/max": 16,
            "length/clip_ratio": 1 / 6,
            "length/looping_share": 0.0,
            "reward/lenient_mean": 2 / 6,
            "length/right_mean": 5,
            "length/wrong_mean": (10 + 16 + 2 + 4) / 4,
        }
    )
    assert verdicts == pytest.approx(
        {
            "verdict/ok_share": 4 / 6,
            "verdict/no_answer_share": 1 / 6,
            "verdict/truncated_share": 1 / 6,
            "verdict/timeout_share": 0,
            "verdict/limit_share": 0,
            "verdict/crash_share": 0,
            "verdict/verifier_error_share": 0,
            "verdict/unscored_share": 0,
        }
    )


def test_every_rollout_weighs_the_same_in_the_reward_and_every_group_in_the_std():
    row = summarize([MIXED, WRONG, WRONG], 0)
    assert row["reward/mean"] == pytest.approx(2 / 8)
    assert row["reward/group_std/mean"] == pytest.approx((1 / 3) ** 0.5 / 3)


def test_all_right_and_single_rollouts():
    row = summarize([group(0, (5, 1.0, "ok", "stop"))], 0)
    assert (row["group/all_right_share"], row["group/all_wrong_share"], row["group/constant_share"]) == (1, 0, 1)
    assert row["reward/group_std/mean"] == 0.0
    assert row["length/right_mean"] == 5
    assert "length/wrong_mean" not in row


def test_a_group_of_equal_partial_rewards_is_constant_but_neither_right_nor_wrong():
    row = summarize([group(0, (5, 0.1, "ok", "stop"), (7, 0.1, "ok", "stop"))], 0)
    assert (row["group/all_right_share"], row["group/all_wrong_share"], row["group/constant_share"]) == (0, 0, 1)
    assert row["length/wrong_mean"] == 6
    assert "length/right_mean" not in row


def test_rollouts_we_failed_to_grade_count_as_tokens_and_statuses_but_not_as_rewards():
    lost = group(2, (8, 0.0, "ok", "stop")).rollouts[0]
    row = summarize([MIXED], 5, unscored=[(lost, Verdict(None, "timeout"))])
    assert (row["tokens/step"], row["verdict/timeout_share"], row["reward/mean"]) == (44, 0.2, 0.5)
    alone = summarize([], 5, unscored=[(lost, Verdict(None, "crash"))])
    assert (alone["tokens/generated"], alone["group/count"], alone["verdict/crash_share"]) == (13, 0, 1.0)
    assert "reward/mean" not in alone


def test_parts_and_domains_are_told_apart():
    first = scored_group((1.0, 5), (0.0, 5), parts=[{"format": 1.0}, {"format": 0.5}])
    second = scored_group((0.0, 5), (0.0, 5), parts=[{"format": 0.0}, {"format": 0.5}], group=1)
    first, second = (replace(g, problem=replace(g.problem, domain=d)) for g, d in ((first, "a"), (second, "b")))
    row = summarize([first, second], 0)
    assert row["reward/part/format/mean"] == 0.5
    assert (row["domain/a/groups"], row["domain/a/accuracy"], row["domain/b/accuracy"]) == (1, 0.5, 0.0)


def test_right_and_wrong_are_the_verifiers_words_whatever_the_rewards():
    shaped = replace(scored_group((1.0, 5), (1.0, 9)), rewards=(0.9, 0.1))
    row = summarize([shaped], 0)
    assert (row["group/all_right_share"], row["group/all_wrong_share"], row["group/constant_share"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("members", "teaches"),
    [(((1, 50), (0, 100)), 1.0), (((1, 50), (1, 100)), 1.0), (((0, 50), (1, 100)), 0.0), (((1, 50), (0, 60)), 0.0)],
)
def test_where_a_cap_can_teach(members, teaches):
    """A right answer below the cap and any response above it (SIRI 4.2); a response that met the cap is above it."""
    assert summarize([scored_group(*members)], 0)["group/cap_teaches_share"] == teaches
    wider = scored_group(*members, window=1000)
    assert summarize([wider], 0)["group/cap_teaches_share"] == 0.0
    assert summarize([wider], 0, cap=90)["group/cap_teaches_share"] == teaches


def test_the_order_of_groups_is_irrelevant():
    assert summarize([MIXED, WRONG], 5) == pytest.approx(summarize([WRONG, MIXED], 5))


def test_the_values_fit_into_json():
    import json

    row = summarize([MIXED, WRONG], 0)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
