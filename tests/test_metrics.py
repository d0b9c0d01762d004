import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longthink.metrics import ALIASES, Sums, aliased


def test_a_mean_is_a_sum_divided_once():
    sums = Sums()
    sums.add("x/mean", 6.0, 3)  # values 1 2 3
    sums.add("x/mean", 10.0, 1)
    assert sums.means() == {"x/mean": 4.0}  # a mean of the two means would be 6


def test_without_a_count_the_sum_is_the_metric():
    sums = Sums()
    sums.add("updates/sum", 1, None)
    sums.add("updates/sum", 2.5, None)
    assert sums.means() == {"updates/sum": 3.5}


def test_the_largest_is_kept():
    sums = Sums()
    for value in (-3.0, -1.0, -2.0):
        sums.add("gap/max", value, None, largest=True)
    assert sums.means() == {"gap/max": -1.0}


def test_a_count_of_zero_gives_zero():
    sums = Sums()
    sums.add("x/mean", torch.zeros(()), 0)
    assert sums.means() == {"x/mean": 0.0}
    sums.add("x/mean", 3.0, 2)
    assert sums.means() == {"x/mean": 1.5}


def test_no_metrics_give_an_empty_row():
    assert Sums().means() == {}


def test_tensors_are_added_in_float64_and_leave_the_graph():
    sums = Sums()
    weight = torch.ones((), dtype=torch.float32, requires_grad=True)
    sums.add("x/mean", weight * 2**24, 1)
    sums.add("x/mean", weight, 1)  # in float32 this one would be lost
    assert sums.means() == {"x/mean": (2**24 + 1) / 2}


def example(offset=0.0, tensor=False):
    wrap = torch.tensor if tensor else float
    sums = Sums()
    sums.add("x/mean", wrap(6.0 + offset), 3)
    sums.add("y/sum", wrap(1.0 + offset), None)
    sums.add("z/max", wrap(offset), None, largest=True)
    return sums


@pytest.mark.parametrize("tensor", [False, True])
def test_merging_adds_sums_and_counts_and_keeps_the_largest(tensor):
    one = example(0.0, tensor)
    one.merge(example(4.0, tensor))
    assert one.means() == {"x/mean": 16 / 6, "y/sum": 6.0, "z/max": 4.0}
    one.merge(example(-1.0, tensor))
    assert one.means() == {"x/mean": 21 / 9, "y/sum": 6.0, "z/max": 4.0}


def test_a_key_only_the_other_has_arrives_whole():
    one = Sums()
    one.merge(example(2.0))
    assert one.means() == example(2.0).means()
    one.merge(example(1.0))
    assert one.means()["z/max"] == 2.0  # still a maximum after the merge


def test_settled_sums_are_plain_numbers_and_mean_the_same():
    sums = example(0.5, tensor=True)
    expected = sums.means()
    assert sums.settle() is sums
    assert {type(v) for v in sums._sums.values()} == {float}
    assert sums.means() == expected


VALUES = st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 9)), min_size=1, max_size=20)


@given(VALUES, st.integers(1, 5))
def test_the_value_does_not_depend_on_how_the_batch_was_cut(values, world):
    def add_all(sums, part):
        for value, count in part:
            sums.add("x/mean", value * count, count)
            sums.add("x/sum", value, None)
            sums.add("x/max", value, None, largest=True)
        return sums

    whole = add_all(Sums(), values).means()
    first, *others = [add_all(Sums(), values[rank::world]) for rank in range(world)]
    for other in others:
        first.merge(other.settle())
    assert first.means() == pytest.approx(whole, abs=1e-9)
    assert whole["x/max"] == max(v for v, _ in values)


def test_aliases_add_other_projects_names_and_keep_ours():
    row = {"reward/mean": 0.5, "loss/kl/mean": 0.25, "step": 3}
    assert aliased(row, ("verl",)) == row | {"critic/rewards/mean": 0.5, "actor/kl_loss": 0.25}
    assert aliased(row, ("verl", "trl")) == row | {"critic/rewards/mean": 0.5, "actor/kl_loss": 0.25, "reward": 0.5, "kl": 0.25}
    assert aliased(row, ()) == row


@pytest.mark.parametrize("project", sorted(ALIASES))
def test_no_two_metrics_share_an_alias_and_no_alias_hides_one_of_ours(project):
    theirs = list(ALIASES[project].values())
    assert len(set(theirs)) == len(theirs)
    assert not set(theirs) & set(ALIASES[project])
