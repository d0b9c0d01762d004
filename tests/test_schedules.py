"""What changes by the clock, against the papers' formulas at every step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.check import drawn
from longthink.contradictions import contradiction
from longthink.errors import RecipeError
from longthink.recipe import parse_recipe
from longthink.schedules import entropy_coefficient, kl_coefficient, window_at
from longthink.settings import fold
from longthink.tables import CycleSettings, LossSettings

LOW, HIGH, PERIOD = 8192, 16384, 640
MIDDLE, SWING = 12288, 4096


def cycle(shape, **changes):
    return CycleSettings(**{"shape": shape, "low": LOW, "high": HIGH, "period": PERIOD, **changes})


def test_cosine_equals_the_formula_of_siri_at_every_step():
    for t in range(2 * PERIOD):
        assert window_at(t, cycle("cosine")) == round(MIDDLE + SWING * math.cos(2 * math.pi / PERIOD * t)), t


def test_stair_cosine_equals_the_formula_of_siri_at_every_step():
    """Phi in radians, as the paper writes it; every joint lies on a whole step of this cycle."""
    pi = math.pi
    for t in range(2 * PERIOD):
        phi = 2 * pi * (t % PERIOD) / PERIOD
        if t % PERIOD < 80 or t % PERIOD >= 560:
            expected = HIGH
        elif t % PERIOD < 240:
            expected = round(MIDDLE + SWING * math.cos(2 * (phi - pi / 4)))
        elif t % PERIOD < 400:
            expected = LOW
        else:
            expected = round(MIDDLE + SWING * math.cos(2 * (phi - 3 * pi / 4)))
        assert window_at(t, cycle("stair_cosine")) == expected, t


@pytest.mark.parametrize(("first", "halves"), [("compression", (LOW, HIGH)), ("expansion", (HIGH, LOW))])
def test_stair_halves(first, halves):
    windows = [window_at(t, cycle("stair", first=first)) for t in range(2 * PERIOD)]
    assert windows == [halves[0]] * 320 + [halves[1]] * 320 + [halves[0]] * 320 + [halves[1]] * 320


def test_compressed_and_expanded_checkpoints_of_siri_lie_at_the_turns():
    """Iteration k's compressed model is that of step 320 + 640(k - 1), its expanded one of 640k."""
    windows = [window_at(t, cycle("cosine")) for t in range(3 * PERIOD + 1)]
    assert [windows[320 + 640 * k] for k in range(3)] == [LOW] * 3
    assert [windows[640 * k] for k in range(1, 4)] == [HIGH] * 3


@given(
    st.sampled_from(["stair", "cosine", "stair_cosine"]),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(2, 700),
    st.integers(0, 3000),
)
def test_a_window_stays_within_its_cycle_and_repeats(shape, low, more, period, t):
    made = CycleSettings(shape=shape, low=low, high=low + more, period=period)
    assert low <= window_at(t, made) <= low + more
    assert window_at(t, made) == window_at(t + period, made)
    if shape != "stair":  # as fast down as up
        assert abs(window_at(t % period, made) - window_at((-t) % period, made)) <= (more if shape == "stair_cosine" else 0)


@given(st.integers(2, 400), st.integers(0, 400))
def test_the_stair_cosine_is_continuous(eighths, t):
    """No step of a long cycle moves the window by more than the steepest slope of its cosine and rounding."""
    made = CycleSettings(shape="stair_cosine", low=1000, high=3000, period=8 * eighths)
    steepest = 1000 * 2 * (2 * math.pi / (8 * eighths))
    assert abs(window_at(t + 1, made) - window_at(t, made)) <= steepest + 1


# -- in a recipe ------------------------------------------------------------------------------------------------


def recipe(**changes):
    base = {"name": "r", "model": {"path": "m"}, "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}}
    return parse_recipe(base | changes, "r")


CYCLE = {"shape": "cosine", "low": 64, "high": 128, "period": 8}


def windows(made, events, steps):
    return [fold(made, events, [{"step": s - 1}] if s > 1 else []).rollout.window for s in steps]


def test_a_cycle_moves_the_window_of_every_step():
    made = recipe(rollout={"cycle": CYCLE})
    assert windows(made, [], range(1, 11)) == [128, 119, 96, 73, 64, 73, 96, 119, 128, 119]
    assert made.last_window == 128


def test_a_stages_cycle_begins_with_the_stage_and_a_window_ends_it():
    cyclic, inheriting = {"rollout": {"cycle": CYCLE}, "max_steps": 4}, {"max_steps": 2, "learner": {"lr": 0.5}}
    made = recipe(stage=[{"rollout": {"window": 32}, "max_steps": 3}, cyclic, inheriting, {"rollout": {"window": 200}}])
    events = [{"step": s, "action": {"stage": i}} for i, s in ((1, 3), (2, 7), (3, 9))]
    assert windows(made, events[:1], (4, 5, 8)) == [128, 119, 64]
    assert windows(made, events[:2], (8, 9)) == [64, 73]  # the third stage names neither: the clock goes on
    assert windows(made, events, (10, 11)) == [200, 200]
    assert made.last_window == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout": {"cycle": CYCLE | {"low": 128}}}, "expected low below high"),
        ({"rollout": {"cycle": CYCLE | {"first": "expansion"}}}, "is for a stair"),
        ({"stage": [{"rollout": {"window": 5, "cycle": CYCLE}}]}, "expected one of them"),
        ({"rollout": {"cycle": CYCLE | {"shape": "sine"}}}, "stair_cosine"),
        ({"rollout": {"cycle": CYCLE}, "validation": {"every": 1}}, "set validation.window"),
    ],
)
def test_contradictory_cycles_are_refused(changes, words):
    with pytest.raises(RecipeError, match=words):
        recipe(**changes)
    assert contradiction(recipe()) is None


def test_the_drawing_shows_the_cycle():
    lines = drawn(CycleSettings(**CYCLE), 16)
    assert lines[0] == "window: cosine cycle of 8 steps; tokens at step: 128 at 1, 96 at 3, 64 at 5, 96 at 7"
    chart = [line[9:] for line in lines[1:-1]]
    heights = [sum(" ▁▂▃▄▅▆▇█".index(row[i]) for row in chart) for i in range(16)]
    assert heights == [48, 42, 28, 14, 8, 14, 28, 42] * 2  # 8 at the lowest window, 40 more at the highest
    assert len(drawn(CycleSettings(**CYCLE), 10**6)[2]) <= 9 + 96


# -- weights ----------------------------------------------------------------------------------------------------


def test_annealed_kl_at_its_ends_is_the_constant_one_and_none():
    assert kl_coefficient(0, 1e-3, "cosine", 500) == kl_coefficient(0, 1e-3, "constant", 0) == 1e-3
    assert kl_coefficient(500, 1e-3, "cosine", 500) == kl_coefficient(10**6, 1e-3, "cosine", 500) == 0.0
    assert kl_coefficient(125, 1e-3, "cosine", 500) == pytest.approx(1e-3 * 0.5 * (1 + math.sqrt(0.5)), rel=1e-12)


def test_a_fixed_entropy_bonus_does_not_look_at_the_entropy():
    assert entropy_coefficient([0.1, 5.0], LossSettings(entropy=0.3)) == 0.3


def test_a_bonus_with_a_target_is_on_only_below_it():
    loss = LossSettings(entropy=0.3, entropy_target=0.5)
    assert [entropy_coefficient(seen, loss) for seen in ([], [0.49], [0.49, 0.5], [0.6, 0.1])] == [0.0, 0.3, 0.0, 0.3]


@given(st.lists(st.floats(0, 3), max_size=30), st.floats(0.01, 2), st.floats(0, 0.5))
def test_an_adaptive_bonus_is_never_negative_and_off_above_the_target(seen, target, step):
    weight = entropy_coefficient(seen, LossSettings(entropy=0.1, entropy_target=target, entropy_step=step))
    assert weight >= 0.0
    assert weight == 0.0 or seen[-1] < target


def test_the_settings_in_force_carry_the_bonus():
    made = recipe(loss={"entropy_target": 0.5, "entropy_step": 0.01})
    rows = [{"step": 0}, {"step": 1, "policy/entropy/mean": 0.4}, {"step": 2, "policy/entropy/mean": 0.3}]
    assert fold(made, [], rows[:1]).loss.entropy == 0.0
    assert fold(made, [], rows).loss.entropy == 0.02
    assert fold(made, [], rows).loss.entropy_target == 0.5
