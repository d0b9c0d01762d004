from longthink.control.mismatch import Mismatch


def history(*values):
    return [{"step": i, "mismatch/logprob_gap/mean": v} for i, v in enumerate(values)]


def test_the_mean_of_the_last_steps_decides():
    rule = Mismatch(above=0.1, over=2)
    assert rule.fires(history(0.01, 0.15, 0.15)) is not None
    assert rule.fires(history(0.15, 0.15, 0.01)) is None  # over the last two only: on the other side on average
    assert rule.fires(history(0.15)) is None  # too few
    assert rule.fires([{"step": 1}, {"step": 2}]) is None
