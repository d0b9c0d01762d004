from longthink.control.looping import Looping


def history(*values):
    return [{"step": i, "length/looping_share": v} for i, v in enumerate(values)]


def test_the_mean_of_the_last_steps_decides():
    rule = Looping(share=0.3, over=2)
    assert rule.fires(history(0.0, 0.4, 0.4)) is not None
    assert rule.fires(history(0.4, 0.4, 0.0)) is None  # over the last two only: on the other side on average
    assert rule.fires(history(0.4)) is None  # too few
    assert rule.fires([{"step": 1}, {"step": 2}]) is None
