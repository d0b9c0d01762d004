from longthink.control.hold import Hold

HIGH, LOW = {"kind": "constant_groups", "share": 0.8, "over": 1}, {"kind": "mismatch", "above": 0.1, "over": 1}


def row(step, constant=0.0, gap=0.0):
    return {"step": step, "group/constant_share": constant, "mismatch/logprob_gap/mean": gap}


def test_it_must_hold_for_its_steps():
    rule = Hold(steps=3, of=HIGH)
    bad, good = row(1, 0.9), row(1, 0.1)
    assert rule.fires([good, bad, bad, bad]) == {"held_steps": 3, "constant_share": 0.9, "steps": 1}
    assert rule.fires([bad, bad, good, bad]) is None
    assert rule.fires([bad, bad]) is None
