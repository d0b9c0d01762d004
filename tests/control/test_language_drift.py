from longthink.control.language_drift import LanguageDrift


def history(*values):
    return [{"step": i, "reward/part/language/mean": v} for i, v in enumerate(values)]


def test_the_mean_of_the_last_steps_decides():
    rule = LanguageDrift(below=0.9, over=2)
    assert rule.fires(history(1.1, 0.8, 0.8)) is not None
    assert rule.fires(history(0.8, 0.8, 1.1)) is None  # over the last two only: on the other side on average
    assert rule.fires(history(0.8)) is None  # too few
    assert rule.fires([{"step": 1}, {"step": 2}]) is None
