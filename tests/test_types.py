"""The nouns: how groups become a ragged batch, by hand, and how batches are cut."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.types import Batch, Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

PROBLEM = Problem("p", ({"role": "user", "content": "?"},), None)
SAMPLING = Sampling()


def policy(ids: list[int], logprobs: list[float], version: int = 0) -> Segment:
    return Segment("policy", np.array(ids), np.array(logprobs, np.float32), version)


def rollout(group: int, sample: int, prompt: list[int], *segments: Segment) -> Rollout:
    return Rollout(RolloutId(group, sample), PROBLEM, np.array(prompt), segments, "stop", SAMPLING, window=8)


def scored(rollouts: list[Rollout], rewards: list[float]) -> Group:
    verdicts = tuple(Verdict(r, "ok") for r in rewards)
    return Group(PROBLEM, tuple(rollouts), verdicts, tuple(rewards))


def two_groups() -> list[Group]:
    """Prompts 10 11 and 20; the second rollout calls a tool that answers 90 91, the last is a trace without log-probs."""
    first = rollout(4, 0, [10, 11], policy([1, 2, 3], [-0.1, -0.2, -0.3]))
    tool = Segment("tool", np.array([90, 91]))
    second = rollout(4, 1, [10, 11], policy([4], [-0.4]), tool, policy([5, 6], [-0.5, -0.6], version=1))
    third = rollout(7, 0, [20], policy([7], [-0.7]))
    fourth = rollout(7, 1, [20], Segment("policy", np.array([8, 9])))
    return [scored([first, second], [1.0, 0.0]), scored([third, fourth], [0.5, 0.5])]


def test_two_groups_by_hand() -> None:
    batch = Batch.of(two_groups())
    assert len(batch) == 4 and batch.num_groups == 2
    assert batch.tokens.tolist() == [10, 11, 1, 2, 3, 10, 11, 4, 90, 91, 5, 6, 20, 7, 20, 8, 9]
    assert batch.offsets.tolist() == [0, 5, 12, 14, 17]
    assert batch.lengths.tolist() == [5, 7, 2, 3]
    assert batch.row.tolist() == [0] * 5 + [1] * 7 + [2] * 2 + [3] * 3
    # prompt, prompt and tool, prompt: none of them enters a loss
    assert batch.loss_mask.astype(int).tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1]
    expected = [0, 0, -0.1, -0.2, -0.3, 0, 0, -0.4, 0, 0, -0.5, -0.6, 0, -0.7, 0, 0, 0]
    np.testing.assert_array_equal(batch.sampler_logprobs, np.array(expected, np.float32))
    assert batch.rewards.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.advantages is batch.old_logprobs is batch.reference_logprobs is None


def test_dtypes() -> None:
    batch = Batch.of(two_groups())
    assert batch.tokens.dtype == batch.offsets.dtype == batch.group.dtype == np.int64
    assert batch.loss_mask.dtype == np.bool_ and batch.sampler_logprobs.dtype == np.float32
    assert batch.rewards.dtype == np.float64


def test_select_takes_rows_in_the_order_asked_for() -> None:
    batch = Batch.of(two_groups())
    batch = batch.with_(advantages=np.arange(17, dtype=np.float32), old_logprobs=-np.arange(17, dtype=np.float32))
    part = batch.select(np.array([2, 0]))
    assert part.tokens.tolist() == [20, 7, 10, 11, 1, 2, 3]
    assert part.offsets.tolist() == [0, 2, 7] and part.offsets.dtype == np.int64
    assert part.loss_mask.astype(int).tolist() == [0, 1, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(part.sampler_logprobs, np.array([0, -0.7, 0, 0, -0.1, -0.2, -0.3], np.float32))
    assert part.rewards.tolist() == [0.5, 1.0] and part.group.tolist() == [1, 0]
    assert part.advantages is not None and part.advantages.tolist() == [12, 13, 0, 1, 2, 3, 4]
    assert part.old_logprobs is not None and part.old_logprobs.tolist() == [-12, -13, 0, -1, -2, -3, -4]
    assert part.reference_logprobs is None


def test_with_replaces_the_named_arrays_and_leaves_the_batch_alone() -> None:
    batch = Batch.of(two_groups())
    ones = np.ones(17, np.float32)
    changed = batch.with_(advantages=ones)
    assert changed.advantages is ones and batch.advantages is None
    assert changed.tokens is batch.tokens and changed.offsets is batch.offsets
    with pytest.raises(TypeError, match="advantage"):
        batch.with_(advantage=ones)
    with pytest.raises(FrozenInstanceError):
        batch.advantages = ones  # type: ignore[misc]


def check_same(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


rows = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(rows, st.data())
def test_a_selection_of_a_selection_is_a_selection(outer: list[int], data: st.DataObject) -> None:
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1, max_size=6))
    batch = Batch.of(two_groups()).with_(reference_logprobs=np.arange(17, dtype=np.float32))
    check_same(batch.select(np.arange(4)), batch)
    check_same(batch.select(np.array(outer)).select(np.array(inner)), batch.select(np.array(outer)[inner]))


lengths = st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3), min_size=1, max_size=4)


@given(lengths)
def test_a_batch_is_its_rollouts_end_to_end(shape: list[list[tuple[int, int]]]) -> None:
    groups = [
        scored([rollout(g, s, [g] * p, policy([s] * r, [-1.0] * r)) for s, (p, r) in enumerate(group)], [float(g)] * len(group))
        for g, group in enumerate(shape)
    ]
    batch, flat = Batch.of(groups), [r for g in groups for r in g.rollouts]
    assert len(batch) == len(flat) and batch.num_groups == len(groups)
    assert batch.lengths.sum() == len(batch.tokens) == len(batch.row) == len(batch.loss_mask)
    for row, r in enumerate(flat):
        here = batch.row == row
        np.testing.assert_array_equal(batch.tokens[here], np.concatenate([r.prompt_ids, r.response_ids]))
        assert batch.loss_mask[here].sum() == r.num_tokens and batch.group[row] == batch.rewards[row] == r.id.group


def test_a_rollout_is_its_segments() -> None:
    second = two_groups()[0].rollouts[1]
    assert second.response_ids.tolist() == [4, 90, 91, 5, 6] and second.num_tokens == 5
    assert not second.truncated
    nothing = rollout(0, 0, [1])
    assert nothing.num_tokens == 0 and nothing.response_ids.tolist() == [] and nothing.response_ids.dtype == np.int64


def test_a_group_is_constant_when_nothing_is_better() -> None:
    mixed, equal = two_groups()
    assert equal.constant and not mixed.constant
    assert scored(list(mixed.rollouts[:1]), [0.0]).constant


def test_ids_sort_by_group_then_sample() -> None:
    assert sorted([RolloutId(1, 0), RolloutId(0, 9), RolloutId(0, 10)]) == [(0, 9), (0, 10), (1, 0)]
