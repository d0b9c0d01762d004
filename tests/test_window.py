import pytest

from longthink.stats import Interval
from longthink.window import WindowCurve, geometric_cutoffs, recommend, window_curve

TINY = (24, 32, 48, 64, 96, 128, 192, 256, 384)


def curve_of(cutoffs, percent):
    accuracy = tuple(Interval(p / 100, p / 100, p / 100) for p in percent)
    return WindowCurve(tuple(cutoffs), accuracy, (0.0,) * len(accuracy), (0.0,) * len(accuracy))


def test_a_sample_counts_only_when_it_ended_in_time_and_was_correct():
    rollouts = [
        [(10, 1.0), (50, 1.0)],  # ends right at 10 and at 50
        [(10, 0.0), (51, 1.0)],  # wrong early, correct one token too late for 50
        [(200, 0.0), (200, 0.0)],  # never ended
    ]
    curve = window_curve(rollouts, [9, 10, 50, 51])
    assert [i.mean for i in curve.accuracy] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    assert curve.coverage == pytest.approx((0, 1 / 3, 1 / 3, 2 / 3))
    assert curve.truncated == pytest.approx((1, 4 / 6, 3 / 6, 2 / 6))
    assert all(0 <= i.low <= i.mean <= i.high <= 1 for i in curve.accuracy)


def test_every_problem_weighs_the_same():
    curve = window_curve([[(5, 1.0)], [(5, 0.0)] * 9], [8])
    assert curve.accuracy[0].mean == 0.5
    assert curve.truncated == (0.0,)


def test_a_share_of_the_score_is_not_correct():
    assert window_curve([[(5, 0.75), (5, 1.0)]], [8]).accuracy[0].mean == 0.5


def test_window_curve_refuses_nonsense():
    with pytest.raises(ValueError, match="nothing to average"):
        window_curve([], [8])
    with pytest.raises(ValueError, match="nothing to average"):
        window_curve([[(5, 1.0)], []], [8])
    for cutoffs in ([], [0, 8], [8, 8], [16, 8]):
        with pytest.raises(ValueError, match="rising"):
            window_curve([[(5, 1.0)]], cutoffs)


@pytest.mark.parametrize(
    ("cutoffs", "percent", "window"),
    [
        # the AIME figures of the paper, which starts at 8K
        ((2048, 4096, 8192, 16384, 32768), (3, 9, 23, 26, 29), 8192),
        # its Countdown figures, where starts of 1K and 2K end best, 1K first
        ((512, 1024, 2048, 3072, 4096, 5632, 7680, 8192), (10.9, 45.5, 61.9, 66.8, 69.3, 71.1, 71.8, 71.8), 1024),
        # two tiny warm starts; the second writes long wrong answers and has a longer tail
        (TINY, (6.6, 6.6, 18.8, 23.7, 29.7, 31.4, 35.9, 36.3, 36.6), 48),
        (TINY, (3.6, 4.8, 8.6, 11.8, 17.1, 20.4, 24.2, 27.3, 28.9), 96),
        # everything is short: the first cutoff already holds the steep part
        (TINY, (60, 61, 62, 63, 63, 63, 63, 63, 63), 24),
        # an early spike of lucky guesses does not hide the bulk that follows
        (TINY, (10, 10, 10, 11, 12, 16, 38, 39, 40), 192),
    ],
)
def test_the_first_window_lies_just_past_the_steepest_gain(cutoffs, percent, window):
    advice = recommend(curve_of(cutoffs, percent), cutoffs[-1])
    assert (advice.window, advice.direct) == (window, False)
    assert f"past {window} tokens" in advice.reason


@pytest.mark.parametrize(
    ("percent", "reason"),
    [
        ((0, 0, 0, 0, 1, 2, 5, 8, 40), "the rise comes late: 5.0% at 192 tokens, less than half of the final 40.0%"),
        ([c / 10 for c in TINY], "does not taper off"),
        ((0,) * 9, "no sample was correct"),
    ],
)
def test_a_late_or_empty_rise_is_trained_directly(percent, reason):
    advice = recommend(curve_of(TINY, percent), 384)
    assert (advice.window, advice.direct) == (384, True)
    assert reason in advice.reason


def test_a_smaller_full_window_leaves_the_rest_of_the_curve_out():
    late = curve_of((16, 32, 64, 128, 256), (2, 20, 24, 26, 90))
    assert recommend(late, 256).direct
    assert recommend(late, 128)[:2] == (32, False)
    with pytest.raises(ValueError, match="every cutoff is above the window 8"):
        recommend(late, 8)


def test_a_full_window_beyond_the_curve_is_judged_by_the_last_cutoff():
    assert recommend(curve_of((16, 32, 64), (10, 11, 12)), 1024)[:2] == (16, False)


def test_a_fine_grid_with_noise_gives_about_the_same_window():
    # a smooth rise to 0.4 that bends at 64 tokens, with single lucky endings between neighbouring cutoffs
    fine = range(8, 257, 2)
    percent = [min(c, 64) * 0.5 + max(c - 64, 0) * 0.04 + (0.6 if c % 16 == 0 else 0) for c in fine]
    assert 50 <= recommend(curve_of(fine, percent), 256).window <= 72


def test_geometric_cutoffs():
    assert geometric_cutoffs(24, 384) == TINY
    assert geometric_cutoffs(512, 8192) == (512, 683, 1024, 1365, 2048, 2731, 4096, 5461, 8192)
    assert geometric_cutoffs(64, 64) == (64,)
    assert geometric_cutoffs(64, 66) == (66,)
    assert geometric_cutoffs(1, 10) == (1, 2, 3, 4, 5, 8, 10)
    with pytest.raises(ValueError, match="expected 1 <= low <= high"):
        geometric_cutoffs(10, 5)
