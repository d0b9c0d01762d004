from longthink.control.verifier_failures import VerifierFailures


def history(*values):
    return [{"step": i, "verdict/unscored_share": v} for i, v in enumerate(values)]


def test_the_mean_of_the_last_steps_decides():
    rule = VerifierFailures(share=0.3, over=2)
    assert rule.fires(history(0.0, 0.4, 0.4)) is not None
    assert rule.fires(history(0.4, 0.4, 0.0)) is None  # over the last two only: on the other side on average
    assert rule.fires(history(0.4)) is None  # too few
    assert rule.fires([{"step": 1}, {"step": 2}]) is None
