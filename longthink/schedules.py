"""What changes by the clock: the window (SIRI's cycles), the learning rate, the KL's weight. Pure functions of a count."""

import math
from collections.abc import Sequence
from typing import Literal

from longthink.tables import CycleSettings, LearnerSettings, LossSettings

__all__ = ["entropy_coefficient", "kl_coefficient", "learning_rate", "window_at"]


def window_at(step: int, cycle: CycleSettings) -> int:
    """The window at step `step` (from 0) of a cycle between `low` and `high` tokens, rounded to whole tokens.

    stair: `low` in one half of the period and `high` in the other; `first` says which comes first. cosine: mid + amplitude ·
    cos(2πt/T), from `high` at 0 through `low` at T/2. stair_cosine: `high` for an eighth of the period, a half cosine down to
    `low` at 3/8, `low` until 5/8, the same way up to `high` at 7/8.
    Source: SIRI 4.3; the paper writes no formula for the stair, its phase order is read off the runs of 5.3, and it does not say
    how tokens are rounded (to nearest here, halves to even).

    >>> [window_at(t, CycleSettings(shape="cosine", low=8192, high=16384, period=640)) for t in (0, 160, 320, 480, 640)]
    [16384, 12288, 8192, 12288, 16384]
    >>> [window_at(t, CycleSettings(shape="stair_cosine", low=100, high=200, period=16)) for t in range(2, 9)]
    [200, 185, 150, 115, 100, 100, 100]
    """
    phase = (step % cycle.period) / cycle.period  # of a turn
    middle, swing = (cycle.high + cycle.low) / 2, (cycle.high - cycle.low) / 2
    match cycle.shape:
        case "stair":
            return cycle.low if (phase < 0.5) == (cycle.first == "compression") else cycle.high
        case "cosine":
            return round(middle + swing * math.cos(2 * math.pi * phase))
        case "stair_cosine":
            if phase < 1 / 8 or phase >= 7 / 8:
                return cycle.high
            if 3 / 8 <= phase < 5 / 8:
                return cycle.low
            begun = 1 / 8 if phase < 3 / 8 else 3 / 8
            return round(middle + swing * math.cos(2 * (2 * math.pi * (phase - begun))))


def learning_rate(update: int, settings: LearnerSettings) -> float:
    """The rate of update number `update` (from 0): linear warm-up, then constant or a cosine to floor · lr.

    Source: DeepScaleR, STILL-3, SIRI, NVIDIA constant without warm-up (1e-6, 2e-6, 1e-6, 2e-6); Open-RS cosine to 0.1 after 10 %.

    >>> open_rs = LearnerSettings(lr=1.0, schedule="cosine", warmup_updates=50, total_updates=500, floor=0.1)
    >>> [round(learning_rate(update, open_rs), 3) for update in (0, 49, 275, 500)]
    [0.02, 1.0, 0.55, 0.1]
    """
    if update < settings.warmup_updates:
        return settings.lr * (update + 1) / settings.warmup_updates
    if settings.schedule == "constant":
        return settings.lr
    progress = (update - settings.warmup_updates) / (settings.total_updates - settings.warmup_updates)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return settings.lr * (settings.floor + (1.0 - settings.floor) * cosine)


def kl_coefficient(update: int, start: float, schedule: Literal["constant", "cosine"], horizon: int) -> float:
    """The KL's weight at update number `update` (from 0): constant, or a half cosine from `start` to 0 at `horizon`.

    Source: STILL-3 3.1.2, 1e-3 to 0; its code, over 500 updates, adds the constant weight to the annealed one, which is not
    followed.

    >>> [kl_coefficient(update, 0.5, "cosine", 4) for update in (0, 2, 4, 9)]
    [0.5, 0.25, 0.0, 0.0]
    """
    if schedule == "constant":
        return start
    return start * 0.5 * (1.0 + math.cos(math.pi * min(update / horizon, 1.0)))


def entropy_coefficient(entropies: Sequence[float], loss: LossSettings) -> float:
    """The weight of the entropy bonus after steps whose policies had these mean entropies (nats), oldest first.

    Without a target the recipe's own. With one the weight begins there, grows by `entropy_step` after each step below the
    target and shrinks by as much, not below 0, after each other; it is in force only while the last step was below.
    Source: NVIDIA's ablation of adaptive entropy (4.3), which turns the bonus on below the target; the rule of growth is
    Skywork-OR1's (2025).

    >>> settings = LossSettings(entropy=0.0, entropy_target=0.5, entropy_step=0.25)
    >>> [entropy_coefficient(seen, settings) for seen in ([], [0.4], [0.4, 0.3], [0.4, 0.3, 0.6], [0.4, 0.3, 0.6, 0.4])]
    [0.0, 0.25, 0.5, 0.0, 0.5]
    """
    if not loss.entropy_target:
        return loss.entropy
    weight = loss.entropy
    for entropy in entropies:
        weight = max(0.0, weight + (loss.entropy_step if entropy < loss.entropy_target else -loss.entropy_step))
    return weight if entropies and entropies[-1] < loss.entropy_target else 0.0
