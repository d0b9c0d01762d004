"""The window that follows the signal: numbers by hand, its estimator against the truth, and the choice it leads to."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.signals import measure, probes, window_by_signal
from longthink.tables import SignalSettings
from longthink.types import Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

SETTINGS = SignalSettings(low=32, high=128, aim="own")


def group(lengths: list[int], scores: list[float], window: int = 128) -> Group:
    problem = Problem("p", ({"role": "user", "content": "?"},), {})
    rollouts = [
        Rollout(
            RolloutId(0, sample),
            problem,
            np.zeros(1, np.int64),
            (Segment("policy", np.zeros(min(length, window), np.int64)),),
            "stop" if length <= window else "length",
            Sampling(1.0),
            window,
        )
        for sample, length in enumerate(lengths)
    ]
    verdicts = [Verdict(s if n <= window else 0.0, "ok") for s, n in zip(scores, lengths, strict=True)]
    return Group(problem, tuple(rollouts), tuple(verdicts), tuple(v.score or 0.0 for v in verdicts))


def test_a_group_by_hand() -> None:
    row = measure([group([20, 40, 60, 100], [1, 1, 0, 1])], SETTINGS)
    # within 32 tokens one of four is right: 1 * 3 / (4 * 3); its tokens are 20 and three times 32
    assert row["signal/32/gain"] == pytest.approx(1 / 4) and row["signal/32/cost"] == pytest.approx(116 / 4)
    assert row["signal/64/gain"] == pytest.approx(2 * 2 / 12) and row["signal/64/cost"] == pytest.approx((20 + 40 + 60 + 64) / 4)
    assert row["signal/128/gain"] == pytest.approx(3 * 1 / 12) and row["signal/128/cost"] == pytest.approx(220 / 4)


def test_what_a_window_teaches_about_the_widest_by_hand() -> None:
    full = SETTINGS.model_copy(update={"aim": "full"})
    row = measure([group([20, 40, 60, 100], [1, 1, 0, 1]), group([20, 40], [1, 0], window=64)], full)
    # three of four are right in the end: one of them within 32 tokens, two within 64
    assert [row[f"signal/{L}/gain"] for L in (32, 64, 128)] == pytest.approx([1 * 1 / 12, 2 * 1 / 12, 3 * 1 / 12])
    assert row["signal/32/cost"] == pytest.approx(116 / 4) and row["signal/32/groups"] == 1


def test_groups_capped_below_a_window_say_nothing_about_it() -> None:
    row = measure([group([20, 200], [1, 1], window=64), group([20, 100], [1, 0])], SETTINGS)
    assert [row[f"signal/{L}/groups"] for L in (32, 43, 64, 85, 128)] == [2, 2, 2, 1, 1]
    assert row["signal/64/gain"] == pytest.approx(1 / 2 + 1 / 2) and row["signal/128/gain"] == pytest.approx(1 / 2)


def test_how_many_groups_probe() -> None:
    assert [probes(n, SETTINGS) for n in (1, 4, 16, 64)] == [1, 1, 2, 8]


def rows(**rates: float) -> list[dict[str, float]]:
    """Two measured steps at window 64 with these signals per token."""
    row: dict[str, float] = {"window": 64}
    for cutoff, rate in rates.items():
        row |= {f"signal/{cutoff[1:]}/gain": rate * 100, f"signal/{cutoff[1:]}/cost": 100.0}
    return [row, row]


def test_only_a_clearly_better_window_takes_over() -> None:
    assert window_by_signal(rows(w32=0.109, w64=0.100, w128=0.05), SETTINGS) == 64
    assert window_by_signal(rows(w32=0.111, w64=0.100, w128=0.05), SETTINGS) == 32
    assert window_by_signal(rows(w64=0.0, w128=0.01), SETTINGS) == 128
    assert window_by_signal(rows(w32=0.0, w64=0.0, w128=0.0), SETTINGS) == 64  # nothing is learnt anywhere: nothing moves


def test_it_chooses_every_second_step_and_begins_at_the_widest() -> None:
    found = rows(w32=0.2, w64=0.1)
    assert window_by_signal([], SETTINGS) == 128
    assert [window_by_signal(found[:1] * n, SETTINGS) for n in (1, 2, 3, 4)] == [64, 32, 64, 32]


def test_old_steps_are_forgotten() -> None:
    assert window_by_signal(rows(w32=9.0, w64=0.1) + 2 * rows(w32=0.1, w64=0.1), SETTINGS) == 64


Draw = Callable[[np.random.Generator, int], tuple[list[int], list[float]]]


def simulated(draw: np.random.Generator, size: int) -> tuple[list[int], list[float]]:
    """Rollouts of a problem of random difficulty: right answers are shorter, hard problems longer."""
    hard = draw.uniform(0.1, 0.9)
    right = draw.random(size) > hard
    lengths = np.exp(draw.normal(np.log(np.where(right, 30, 60) * (1 + hard)), 0.5)).round().astype(int).clip(1, 127)
    return lengths.tolist(), right.astype(float).tolist()


@given(st.integers(0, 1000), st.integers(2, 8))
def test_the_signal_of_a_group_is_that_of_all_its_pairs(seed: int, size: int) -> None:
    lengths, scores = simulated(np.random.default_rng(seed), size)
    row = measure([group(lengths, scores)], SETTINGS)
    for cutoff in (32, 64, 128):
        right = [s * (n <= cutoff) for s, n in zip(scores, lengths, strict=True)]
        pairs = [(a - b) ** 2 / 2 for i, a in enumerate(right) for j, b in enumerate(right) if i != j]
        assert row[f"signal/{cutoff}/gain"] == pytest.approx(sum(pairs) / len(pairs))


def test_small_groups_estimate_what_large_ones_do() -> None:
    """Without the factor G / (G - 1) groups of 4 would lose a quarter of the signal and groups of 64 nothing."""
    draw, means = np.random.default_rng(0), {}
    for size, count in ((4, 4000), (64, 1000)):
        row = measure([group(*simulated(draw, size)) for _ in range(count)], SETTINGS)
        means[size] = row["signal/64/gain"] / count, row["signal/64/cost"] / count
    assert means[4] == pytest.approx(means[64], rel=0.04)


def test_on_a_standing_population_it_settles_near_the_best_window() -> None:
    """The truth is known from many rollouts; sixteen groups a step, two of them probing, must find nearly as good a window."""
    draw = np.random.default_rng(1)
    truth = measure([group(*simulated(draw, 16)) for _ in range(3000)], SETTINGS)
    rates = {L: truth[f"signal/{L}/gain"] / truth[f"signal/{L}/cost"] for L in (32, 43, 64, 85, 128)}
    steps: list[dict[str, float]] = []
    for _ in range(60):
        window = window_by_signal(steps, SETTINGS)
        far = probes(16, SETTINGS)
        groups = [group(*simulated(draw, 16), window=128 if i < far else window) for i in range(16)]
        steps.append({"window": window} | measure(groups, SETTINGS))
    reached = [rates[int(row["window"])] / max(rates.values()) for row in steps[4:]]
    assert len(set(rates.values())) == 5 and min(rates.values()) < 0.8 * max(rates.values())
    assert np.mean(reached) > 0.9
    moves = sum(a["window"] != b["window"] for a, b in pairwise(steps[4:]))
    assert moves < 14  # of 27 choices: it does not flutter


def test_a_window_that_is_no_candidate_counts_as_the_widest() -> None:
    assert window_by_signal(rows(w32=0.1, w64=0.1, w128=0.1)[:1], SignalSettings(low=80, high=128)) == 128
