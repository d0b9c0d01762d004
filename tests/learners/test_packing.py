import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.learners.packing import MAX_PADDING, MIN_STEP, microbatches


def plans(lengths, budget):
    return [[block.tolist() for block in plan] for plan in microbatches(np.array(lengths, np.int64), budget)]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([50, 20, 30, 50], 150, [[[0, 3], [2, 1]]]),  # 30 opens a block of its own, 20 joins it
        ([50, 20, 30, 50], 149, [[[0, 3], [2]], [[1]]]),
        ([], 10, []),
        ([7], 10, [[[0]]]),
        ([7], 3, [[[0]]]),  # a row longer than the budget stands alone
        ([3, 9, 3], 8, [[[1]], [[0, 2]]]),
        ([10, 10, 10], 20, [[[0, 1]], [[2]]]),  # ties keep their order
        ([160, 200, 180], 600, [[[1, 2, 0]]]),  # 160 is within 20 % of 200
        ([159, 200], 600, [[[1], [0]]]),  # 159 is not
        ([5, 20], 30, [[[1, 0]]]),  # fifteen tokens of padding are always taken
        ([4, 20], 30, [[[1], [0]]]),  # sixteen are not
    ],
)
def test_by_hand(lengths, budget, expected):
    assert plans(lengths, budget) == expected


LENGTHS = st.lists(st.integers(1, 300), max_size=40)


@given(LENGTHS, st.integers(1, 1000))
def test_every_row_comes_exactly_once(lengths, budget):
    assert sorted(row for plan in plans(lengths, budget) for block in plan for row in block) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 1000))
def test_the_budget_holds_unless_a_single_row_exceeds_it(lengths, budget):
    for plan in plans(lengths, budget):
        used = sum(lengths[row] for block in plan for row in block)
        assert used <= budget or len(plan) == len(plan[0]) == 1


@given(LENGTHS, st.integers(1, 1000))
def test_a_block_is_as_wide_as_its_first_row_and_pads_little(lengths, budget):
    for plan in plans(lengths, budget):
        for block in plan:
            sizes = [lengths[row] for row in block]
            assert sizes[0] == max(sizes)
            assert all(sizes[0] - s <= max(MIN_STEP - 1, MAX_PADDING * sizes[0] + 1e-9) for s in sizes)


@given(LENGTHS, st.integers(1, 1000))
def test_rows_run_from_long_to_short_and_ties_keep_their_order(lengths, budget):
    order = [row for plan in plans(lengths, budget) for block in plan for row in block]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


@given(LENGTHS)
def test_a_wide_budget_makes_one_micro_batch(lengths):
    assert len(plans(lengths, 10**9)) == bool(lengths)
