import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.learners.packing import MAX_PADDING, microbatches, padded_size


def plans(lengths, budget):
    return [[block.tolist() for block in plan] for plan in microbatches(np.array(lengths, np.int64), budget)]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([5, 2, 3, 5], 16, [[[0, 3], [2, 1]]]),  # 3 opens a block of its own, 2 joins it: 2 x 5 + 2 x 3
        ([5, 2, 3, 5], 15, [[[0, 3], [2]], [[1]]]),
        ([], 10, []),
        ([7], 10, [[[0]]]),
        ([7], 3, [[[0]]]),  # a row longer than the budget stands alone
        ([3, 9, 3], 8, [[[1]], [[0, 2]]]),
        ([10, 10, 10], 20, [[[0, 1]], [[2]]]),  # ties keep their order
        ([8, 10, 9], 30, [[[1, 2, 0]]]),  # 8 is within 20 % of 10
        ([7, 10], 30, [[[1], [0]]]),  # 7 is not
        ([1, 2, 2], 6, [[[1, 2, 0]]]),  # one token of padding is always taken
        ([10, 8], 19, [[[0]], [[1]]]),  # padded to 10 the second would not fit
    ],
)
def test_by_hand(lengths, budget, expected):
    assert plans(lengths, budget) == expected


def test_padded_size_counts_the_padding():
    lengths = np.array([5, 2, 3, 5])
    (plan,) = microbatches(lengths, 16)
    assert padded_size(plan, lengths) == 2 * 5 + 2 * 3


LENGTHS = st.lists(st.integers(1, 300), max_size=40)


@given(LENGTHS, st.integers(1, 1000))
def test_every_row_comes_exactly_once(lengths, budget):
    assert sorted(row for plan in plans(lengths, budget) for block in plan for row in block) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 1000))
def test_the_budget_holds_unless_a_single_row_exceeds_it(lengths, budget):
    for plan in microbatches(np.array(lengths, np.int64), budget):
        single = len(plan) == 1 and len(plan[0]) == 1
        assert padded_size(plan, np.array(lengths)) <= budget or single


@given(LENGTHS, st.integers(1, 1000))
def test_a_block_is_as_wide_as_its_first_row_and_pads_little(lengths, budget):
    for plan in plans(lengths, budget):
        for block in plan:
            sizes = [lengths[row] for row in block]
            assert sizes[0] == max(sizes)
            assert all(sizes[0] - s <= max(1, MAX_PADDING * sizes[0] + 1e-9) for s in sizes)


@given(LENGTHS, st.integers(1, 1000))
def test_rows_run_from_long_to_short_and_ties_keep_their_order(lengths, budget):
    order = [row for plan in plans(lengths, budget) for block in plan for row in block]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


@given(LENGTHS)
def test_a_wide_budget_makes_one_micro_batch(lengths):
    assert len(plans(lengths, 10**9)) == bool(lengths)
