"""The triggers on histories with the shape and numbers of published runs (benchmarks/replays.py), a few seeds each."""

from collections.abc import Callable

import numpy as np
import pytest
import replays

SEEDS = range(10)


def over_seeds(of: Callable[[np.random.Generator], int | None]) -> list[int | None]:
    return [of(np.random.default_rng([7, seed])) for seed in SEEDS]


def test_the_deepscaler_recipe_switches_near_the_published_steps() -> None:
    first = over_seeds(lambda draw: replays.switch(0, replays.deepscaler_8k(draw)))
    second = over_seeds(lambda draw: replays.switch(1, replays.deepscaler_16k(draw)))
    assert abs(float(np.median(np.array(first, float))) - 1040) <= 40 and min(filter(None, first)) > 940
    totals = np.array(first, float) + np.array(second, float)
    assert abs(float(np.median(totals)) - 1520) <= 60


@pytest.mark.parametrize("trouble", replays.TROUBLES)
def test_nvidia_s_troubles_are_told_apart(trouble: str) -> None:
    histories = [replays.nvidia(np.random.default_rng([7, seed]), trouble) for seed in SEEDS]
    right = [replays.first(replays.TROUBLES[trouble], history) for history in histories]
    if trouble == "plateau":
        assert sum(at is not None and 280 <= at <= 420 for at in right) >= 8
    else:
        assert all(at is not None and 300 <= at <= 380 for at in right)
    for other in set(replays.TROUBLES) - {trouble, "plateau"}:
        assert [replays.first(replays.TROUBLES[other], history) for history in histories] == [None] * len(SEEDS)


@pytest.mark.parametrize("experiment", replays.OPEN_RS)
@pytest.mark.parametrize("which", range(3))
def test_single_samples_of_open_rs_are_not_distinguishable(experiment: str, which: int) -> None:
    history = replays.open_rs_scores(experiment, which)
    best = max(row["validation/accuracy"] for row in history)
    assert replays.first({"kind": "drop"}, history) is None
    if which == 0:
        assert best - history[-1]["validation/accuracy"] > 0.03  # a fall by eye
        assert history[0]["validation/high"] - history[0]["validation/low"] > 0.3  # of scores whose intervals are this wide


def test_the_curves_of_open_rs_do_trigger() -> None:
    for options in replays.DRIFTS:
        found = over_seeds(lambda draw, options=options: replays.first(options, replays.open_rs_curves(draw)))
        assert all(at is not None and 150 <= at < 400 for at in found), options


def test_flat_and_noisy_runs_stay_quiet() -> None:
    histories = [replays.quiet(np.random.default_rng([7, seed])) for seed in SEEDS]
    for kind in ("drop", "kl_spike", "looping", "language_drift"):
        assert sum(replays.first({"kind": kind}, history) is not None for history in histories) <= 1
