"""Accuracy against the context window, read off one long sampling, and the first window it recommends."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from longthink.stats import Interval, mean_interval, score_interval

__all__ = ["Recommendation", "WindowCurve", "geometric_cutoffs", "next_windows", "recommend", "window_curve"]

TAPERED = 0.5  # a gain below this share of the steepest is no longer steep
REACHED = 0.5  # a first window must already reach this share of the final accuracy
STRIDE = 1.25  # gains are taken over cutoffs at least this factor apart, so a fine grid does not make them noisy


class WindowCurve(NamedTuple):
    """What a window of each cutoff would have given; the tuples run along `cutoffs` (tokens, rising).

    `accuracy` is the mean over problems of the share of correct samples, `coverage` the share of problems
    with a correct sample, `truncated` the share of samples that had not ended.
    """

    cutoffs: tuple[int, ...]
    accuracy: tuple[Interval, ...]
    coverage: tuple[float, ...]
    truncated: tuple[float, ...]


class Recommendation(NamedTuple):
    """The window to start training with; `direct` says that it is the full one, without stages."""

    window: int
    direct: bool
    reason: str


def window_curve(rollouts: Sequence[Sequence[tuple[int, float]]], cutoffs: Sequence[int]) -> WindowCurve:
    """The curve of one sampling: for each problem the (tokens, score) of each of its samples.

    A sample is correct at a cutoff when it ended within it with the full score. Cutting a long sample is
    what a shorter window would have done, because no token depends on the window. Give a sample that
    never ended more tokens than the largest cutoff, or it passes for one that ended there.
    Every problem weighs the same in accuracy and truncated share, whatever its number of samples.

    Raises: ValueError when there is no problem, a problem has no sample, or cutoffs are not rising and positive.
    Source: DeepScaleR section 3.3 and figure 7.

    >>> curve = window_curve([[(10, 1.0), (30, 1.0)], [(20, 0.0), (40, 1.0)]], [16, 32])
    >>> [i.mean for i in curve.accuracy], curve.coverage, curve.truncated
    ([0.25, 0.5], (0.5, 0.5), (0.75, 0.25))
    """
    if not cutoffs or cutoffs[0] < 1 or any(b <= a for a, b in pairwise(cutoffs)):
        raise ValueError(f"cutoffs are {list(cutoffs)}; expected positive numbers of tokens, rising")
    accuracy, coverage, truncated = [], [], []
    for cutoff in cutoffs:
        correct = [[float(tokens <= cutoff and score >= 1.0) for tokens, score in problem] for problem in rollouts]
        accuracy.append(score_interval(correct))
        coverage.append(sum(any(problem) for problem in correct) / len(correct))
        truncated.append(mean_interval([[float(tokens > cutoff) for tokens, _ in problem] for problem in rollouts]).mean)
    return WindowCurve(tuple(cutoffs), tuple(accuracy), tuple(coverage), tuple(truncated))


def recommend(curve: WindowCurve, max_window: int) -> Recommendation:
    """The first window of a schedule up to `max_window`, or that window itself when stages would not pay.

    With a(c) the accuracy at cutoff c, a(0) = 0, straight lines between cutoffs, and cutoffs above `max_window`
    left out:
    - Direct, when less than half of the final accuracy is reached at half of `max_window` (the rise comes late).
    - Else the gain at a cutoff is the slope of a, in accuracy per token, from it to the next cutoff at least
      1.25 times as large. The first window is the first cutoff from the steepest gain on where the gain
      has fallen below half of the steepest and at least half of the final accuracy is reached.
    - Direct as well when that comes only at the last cutoff or nothing was solved at all.

    Source: DeepScaleR section 3.3, principle 1 ("start at steepest gains") and its converse. The paper names no numbers;
    the halves are ours. They give its 8K on its AIME figures and 1K on its Countdown figures. Slopes
    are per token as in its figure 7: per doubling of the window, a long slowly rising tail counts as steep.

    >>> points = [Interval(a, a, a) for a in (0.03, 0.09, 0.23, 0.26, 0.29)]
    >>> recommend(WindowCurve((2048, 4096, 8192, 16384, 32768), tuple(points), (0.0,) * 5, (0.0,) * 5), 32768)[:2]
    (8192, False)
    """
    cutoffs = [0, *(c for c in curve.cutoffs if c <= max_window)]
    if len(cutoffs) == 1:
        raise ValueError(f"every cutoff is above the window {max_window}; the smallest is {curve.cutoffs[0]}")
    reached = [0.0, *(i.mean for i in curve.accuracy)][: len(cutoffs)]
    final = reached[-1]
    if final <= 0.0:
        return Recommendation(max_window, True, f"no sample was correct within {cutoffs[-1]} tokens: the curve is no guide")
    half = float(np.interp(max_window / 2, cutoffs, reached))
    if half < REACHED * final:
        why = f"the rise comes late: {half:.1%} at {max_window / 2:.0f} tokens, less than half of the final {final:.1%}"
        return Recommendation(max_window, True, why)
    gains = _gains(cutoffs, reached)
    steepest = int(np.argmax(gains))
    for i in range(max(steepest, 1), len(cutoffs) - 1):
        if gains[i] < TAPERED * gains[steepest] and reached[i] >= REACHED * final:
            gain, most = (_in_words(g, max_window) for g in (gains[i], gains[steepest]))
            why = f"past {cutoffs[i]} tokens the gain is {gain}, below half of the steepest ({most} from {cutoffs[steepest]} on)"
            why += f"; accuracy there is {reached[i]:.1%} of a final {final:.1%}"
            return Recommendation(cutoffs[i], False, why)
    return Recommendation(max_window, True, f"the gain does not taper off before {cutoffs[-1]} tokens")


def next_windows(plan: Recommendation, full: int) -> list[int]:
    """The recommended window, and from there twice as much each time up to the full one.

    >>> next_windows(Recommendation(96, False, ""), 256), next_windows(Recommendation(256, True, ""), 256)
    ([96, 192, 256], [256])
    """
    windows = [full] if plan.direct else [plan.window]
    while windows[-1] < full:
        windows.append(min(2 * windows[-1], full))
    return windows


def _gains(cutoffs: Sequence[int], reached: Sequence[float]) -> list[float]:
    """Accuracy per token gained after each cutoff but the last."""
    gains = []
    for i, cutoff in enumerate(cutoffs[:-1]):
        j = next((j for j in range(i + 1, len(cutoffs)) if cutoffs[j] >= STRIDE * cutoff), len(cutoffs) - 1)
        gains.append((reached[j] - reached[i]) / (cutoffs[j] - cutoff))
    return gains


def _in_words(gain: float, max_window: int) -> str:
    tokens = 100 if max_window < 2000 else 1000
    return f"{100 * tokens * gain:.3g} points per {tokens:,} tokens"


def geometric_cutoffs(low: int, high: int) -> tuple[int, ...]:
    """Cutoffs from low to high, two per doubling: low times 1, 4/3, 2, 8/3, 4, ... and high itself.

    A cutoff less than a tenth below `high` is left out in its favour. Raises: ValueError unless 1 <= low <= high.

    >>> geometric_cutoffs(24, 384)
    (24, 32, 48, 64, 96, 128, 192, 256, 384)
    >>> geometric_cutoffs(512, 3000)
    (512, 683, 1024, 1365, 2048, 3000)
    """
    if not 1 <= low <= high:
        raise ValueError(f"low {low}, high {high}; expected 1 <= low <= high")
    steps = ((low * 2 ** (k // 2) * (4 if k % 2 else 3) + 1) // 3 for k in range(2 * high.bit_length() + 2))
    return (*sorted({s for s in steps if s < 0.9 * high}), high)
