from longthink.control.constant_groups import ConstantGroups


def history(*values):
    return [{"step": i, "group/constant_share": v} for i, v in enumerate(values)]


def test_the_mean_of_the_last_steps_decides():
    rule = ConstantGroups(share=0.8, over=2)
    assert rule.fires(history(0.1, 0.9, 0.9)) is not None
    assert rule.fires(history(0.9, 0.9, 0.1)) is None  # over the last two only: on the other side on average
    assert rule.fires(history(0.9)) is None  # too few
    assert rule.fires([{"step": 1}, {"step": 2}]) is None
