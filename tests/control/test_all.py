import pytest

from longthink.control.all import All
from longthink.control.base import Trigger
from longthink.errors import RecipeError
from longthink.part import load_part

HIGH, LOW = {"kind": "constant_groups", "share": 0.8, "over": 1}, {"kind": "mismatch", "above": 0.1, "over": 1}


def row(step, constant=0.0, gap=0.0):
    return {"step": step, "group/constant_share": constant, "mismatch/logprob_gap/mean": gap}


def test_all_of_them():
    both = All(of=(HIGH, LOW))
    assert both.fires([row(1, 0.9, 0.2)]) == {
        "constant_groups.0": {"constant_share": 0.9, "steps": 1},
        "mismatch.1": {"logprob_gap": 0.2, "steps": 1},
    }
    assert both.fires([row(1, 0.9, 0.0)]) is both.fires([row(1, 0.0, 0.2)]) is None


def test_what_is_inside_is_checked():
    with pytest.raises(RecipeError, match=r"of\.1: kind is 'mismach'"):
        load_part(Trigger, {"kind": "all", "of": [HIGH, {"kind": "mismach"}]})
