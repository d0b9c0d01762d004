import pytest

from longthink.control.kl_spike import KlSpike


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ((0.02, 0.03, 0.02, 0.2), True),
        ((0.02, 0.03, 0.02, 0.1), False),  # five times the median is not above it
        ((0.001, 0.001, 0.001, 0.009), False),  # below the floor
        ((0.02, 0.5, 0.02, 0.03), False),  # the spike is over
        ((0.02, 0.02, 0.2), False),  # too few to know what is usual
    ],
)
def test_spikes(values, fires):
    rows = [{"step": i, "loss/kl/mean": v} for i, v in enumerate(values)]
    evidence = KlSpike(factor=5.0, over=3, gap=0).fires(rows)
    assert (evidence is not None) is fires
    if fires:
        assert evidence == {"kl": 0.2, "median_before": 0.02}


def test_a_spike_that_takes_steps_to_rise_is_held_against_what_was_before_it():
    values = (0.02, 0.02, 0.02, 0.04, 0.08, 0.14)
    rows = [{"step": i, "loss/kl/mean": v} for i, v in enumerate(values)]
    assert KlSpike(factor=5.0, over=3, gap=0).fires(rows) is None  # 0.14 is under twice the median of the three before
    assert KlSpike(factor=5.0, over=3, gap=2).fires(rows) == {"kl": 0.14, "median_before": 0.02}
    assert KlSpike(factor=5.0, over=3, gap=3).fires(rows) is None  # too few
