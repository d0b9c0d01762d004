from longthink.control.any import Any

HIGH, LOW = {"kind": "constant_groups", "share": 0.8, "over": 1}, {"kind": "mismatch", "above": 0.1, "over": 1}


def row(step, constant=0.0, gap=0.0):
    return {"step": step, "group/constant_share": constant, "mismatch/logprob_gap/mean": gap}


def test_any_of_them():
    either = Any(of=(HIGH, LOW))
    assert either.fires([row(1)]) is None
    assert set(either.fires([row(1, 0.9)])) == {"constant_groups.0"}
    assert set(either.fires([row(1, 0.9, 0.2)])) == {"constant_groups.0", "mismatch.1"}
