import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.stats import (
    Interval,
    mean_interval,
    paired_difference,
    pass_at_k,
    running_mean,
    score_interval,
    slope_interval,
    t_quantile,
)


@pytest.mark.parametrize(
    ("p", "df", "expected"),
    [
        (0.975, 1, 12.7062047362),  # tan(0.475 pi)
        (0.975, 2, 4.3026527297),
        (0.975, 4, 2.7764451052),
        (0.995, 4, 4.6040948713),
        (0.95, 10, 1.8124611228),
        (0.975, 30, 2.0422724563),
        (0.975, 255, 1.9693105698),
        (0.975, 1_000_000, 1.9599663566),
        (0.975, 1e12, 1.9599639845),  # the normal quantile
        (0.999999999, 1, 318309885.6),  # 1 / (pi 1e-9) less a hair
    ],
)
def test_t_quantile_agrees_with_the_tables(p, df, expected):
    assert t_quantile(p, df) == pytest.approx(expected, rel=1e-6)
    assert t_quantile(1 - p, df) == pytest.approx(-expected, rel=1e-6)


@given(st.floats(0.01, 0.99), st.sampled_from([1, 2]))
def test_t_quantile_has_a_closed_form_for_one_and_two_degrees_of_freedom(p, df):
    exact = math.tan(math.pi * (p - 0.5)) if df == 1 else (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    assert t_quantile(p, df) == pytest.approx(exact, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (-1, 3), (0.5, 0.5), (0.9, -1), (math.nan, 3)])
def test_t_quantile_refuses_what_has_no_value(p, df):
    with pytest.raises(ValueError, match="expected p between"):
        t_quantile(p, df)


def test_mean_interval_by_hand():
    # means 0.25, 0.5, 0.75, 0.5: deviations squared sum to 0.125, variance 1/24, standard error sqrt(1/96)
    interval = mean_interval([[1, 0, 0, 0], [1, 0], [1, 1, 1, 0], [0.5]])
    assert interval.mean == 0.5
    assert interval.high - 0.5 == pytest.approx(3.1824463053 / math.sqrt(96))
    assert 0.5 - interval.low == pytest.approx(interval.high - 0.5)


def test_repeated_samples_of_a_problem_add_no_certainty():
    once, often = [[1], [0], [1]], [[1] * 64, [0] * 64, [1] * 64]
    assert mean_interval(once) == mean_interval(often)


def test_mean_interval_of_one_problem_and_of_equal_problems():
    assert mean_interval([[1, 0]]) == Interval(0.5, -math.inf, math.inf)
    assert mean_interval([[1, 0]], bounded=True) == Interval(0.5, 0.0, 1.0)
    assert mean_interval([[1, 0], [0, 1]]) == Interval(0.5, 0.5, 0.5)


def test_mean_interval_leaves_the_unit_range_only_when_unbounded():
    scores = [[1], [1], [1], [0]]
    assert mean_interval(scores).high > 1
    assert mean_interval(scores, bounded=True).high == 1.0
    assert mean_interval(scores, bounded=True).low == max(mean_interval(scores).low, 0.0)


def test_a_higher_confidence_is_wider():
    scores = [[0.1], [0.4], [0.9]]
    assert mean_interval(scores, 0.99).low < mean_interval(scores, 0.9).low


@pytest.mark.parametrize("scores", [[], [[1], []]])
def test_mean_interval_refuses_nothing(scores):
    with pytest.raises(ValueError, match="nothing to average"):
        mean_interval(scores)


def test_paired_difference_by_hand():
    # differences 0.5, 0, 0.5, 1: mean 0.5, variance 1/6, standard error sqrt(1/24)
    interval = paired_difference([[1, 1], [0], [0.5, 0.5], [1]], [[1, 0], [0], [0], [0, 0]])
    assert interval.mean == 0.5
    assert interval.high == pytest.approx(0.5 + 3.1824463053 / math.sqrt(24))


def test_pairing_removes_the_spread_between_problems():
    easy_to_hard = [[k / 10] for k in range(10)]
    better = [[k / 10 + 0.05] for k in range(10)]
    difference = paired_difference(better, easy_to_hard)
    assert difference.low == pytest.approx(0.05)
    assert not difference.low <= 0 <= difference.high
    assert mean_interval(better).low < mean_interval(easy_to_hard).mean


def test_paired_difference_refuses_other_problems():
    with pytest.raises(ValueError, match="a has 2 problems, b has 1"):
        paired_difference([[1], [0]], [[1]])
    with pytest.raises(ValueError, match="ids of a and b differ"):
        paired_difference([[1], [0]], [[1], [0]], ids=(["x", "y"], ["y", "x"]))
    with pytest.raises(ValueError, match="nothing to average"):
        paired_difference([], [])


def test_paired_difference_of_one_problem():
    assert paired_difference([[1]], [[0]]) == Interval(1.0, -math.inf, math.inf)
    assert paired_difference([[1]], [[0]], bounded=True) == Interval(1.0, -1.0, 1.0)


def test_slope_by_hand():
    # xs 0..3, ys 0 1 1 2: slope 3/5; residuals -0.1 0.3 -0.3 0.1, squares 0.2, s.e. sqrt(0.2 / 2 / 5)
    slope = slope_interval([0, 1, 2, 3], [0, 1, 1, 2])
    assert slope.mean == pytest.approx(0.6)
    assert slope.high == pytest.approx(0.6 + 4.3026527297 * math.sqrt(0.02))
    assert slope.low <= 0 <= slope.high


def test_slope_without_enough_points_is_unbounded():
    for xs in ([], [1], [1, 2], [3, 3, 3, 3]):
        slope = slope_interval(xs, [float(i) for i in range(len(xs))])
        assert (slope.low, slope.high) == (-math.inf, math.inf)
        assert slope.low <= 0 <= slope.high
    with pytest.raises(ValueError, match="2 xs and 1 ys"):
        slope_interval([1, 2], [1])


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=20), st.floats(-10, 10))
def test_slope_moves_with_the_line_added(ys, line):
    xs = range(len(ys))
    before, after = slope_interval(xs, ys), slope_interval(xs, [y + line * x for x, y in enumerate(ys)])
    assert after.mean == pytest.approx(before.mean + line, abs=1e-6)
    assert after.high - after.low == pytest.approx(before.high - before.low, abs=1e-5)


def test_pass_at_k_by_hand():
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)  # one pair of six holds two wrong ones
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 1, 5) == 1.0
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="expected 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_running_mean_narrows_at_the_ends():
    assert running_mean([1, 2, 3, 4, 5], reach=2) == [2, 2.5, 3, 3.5, 4]
    assert running_mean([7], reach=3) == [7]
    assert running_mean([], reach=3) == []


def test_a_problem_with_one_sample_borrows_the_spread_of_the_others() -> None:
    whole = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    partly = score_interval([*whole, [1.0]], over="samples")
    assert 0.0 < partly.low < partly.mean < partly.high < 1.0
    assert score_interval([[1.0], [0.0]], over="samples") == Interval(0.5, 0.0, 1.0)
    assert score_interval([[0.0]] * 30).high > 0.05  # no problem differs, and that is no certainty
