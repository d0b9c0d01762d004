"""A window that follows the learning signal: for every shorter window at once, how much a token of rollouts would teach."""

from collections.abc import Mapping, Sequence
from typing import Any

from longthink.tables import SignalSettings
from longthink.types import Group
from longthink.window import geometric_cutoffs

__all__ = ["measure", "probes", "window_by_signal"]


def probes(prompts: int, settings: SignalSettings) -> int:
    """How many of a step's groups sample up to the widest window, so that what lies beyond the cap is seen: at least one."""
    return max(1, round(settings.probe * prompts))


def measure(groups: Sequence[Group], settings: SignalSettings) -> dict[str, float]:
    """The metrics of a step for each candidate window L: groups that saw as far, their signal and their cost, summed.

    A group of G rollouts gives p(L), the share right within L tokens, and c(L), the mean of min(tokens, L). Its signal s(L) is
    with `aim = "full"`, the default, p(L)(1 - p(high)) · G / (G - 1), unbiased for the covariance of being right within L and
    within the widest window: to be brief is no gain of its own, and only groups that saw the widest window count. With
    `aim = "own"` it is p(L)(1 - p(L)) · G / (G - 1), the variance of the reward at L itself. Cutting a longer response is what a
    window of L would have done, because no token depends on the window; groups capped below L say nothing about it and are
    left out, and so are groups of one.
    """
    row: dict[str, float] = {}
    for cutoff in geometric_cutoffs(settings.low, settings.high):
        far = settings.high if settings.aim == "full" else cutoff
        seen = [g for g in groups if g.rollouts[0].window >= far and len(g.rollouts) > 1]
        row[f"signal/{cutoff}/groups"] = len(seen)
        row[f"signal/{cutoff}/gain"] = sum(_spread(g, cutoff, far) for g in seen)
        row[f"signal/{cutoff}/cost"] = sum(sum(min(r.num_tokens, cutoff) for r in g.rollouts) / len(g.rollouts) for g in seen)
    return row


def _spread(group: Group, cutoff: int, far: int) -> float:
    """The unbiased covariance of being right within a cutoff and within one at least as far."""
    size = len(group.rollouts)
    lengths = [r.num_tokens for r, v in zip(group.rollouts, group.verdicts, strict=True) if (v.score or 0.0) >= 1.0]
    near, all_right = sum(n <= cutoff for n in lengths), sum(n <= far for n in lengths)
    return near * (size - all_right) / (size * (size - 1))


def window_by_signal(rows: Sequence[Mapping[str, Any]], settings: SignalSettings) -> int:
    """The window of the step after `rows`: the candidate with the most signal per generated token, Σ s(L) / Σ c(L).

    `rows` are those since the signal came into force. Sums run over the last `over` steps that were measured; before the first
    the window is `high`. It is chosen anew every `every` measured steps and changes only for a candidate better than the window
    in force by more than `margin`, as a share.

    The ratio of sums is consistent; its bias is of order 1 / (groups), about -cov(s, c) / c̄² + s̄ var(c) / c̄³ over the number of
    groups, and below a percent from sixteen groups on. Its variance is that of s - (s̄/c̄) c over c̄² · groups: beyond the window
    in force only the probing groups see, so that candidates there are several times noisier, which is what `over` and `margin`
    are for. Groups from some steps ago come from older policies: the estimate lags by about half of `over`.
    Source: ours. DeepScaleR begins where coverage rises steepest, SIRI moves the window by the clock; both stand for this.

    >>> row = {"window": 64, "signal/32/gain": 1.0, "signal/32/cost": 10.0, "signal/64/gain": 1.5, "signal/64/cost": 20.0}
    >>> settings = SignalSettings(low=32, high=64)
    >>> window_by_signal([], settings), window_by_signal([row, row], settings)
    (64, 32)
    """
    measured = [r for r in rows if any(key.startswith("signal/") for key in r)]
    if not measured:
        return settings.high
    now = int(measured[-1]["window"])
    now = now if settings.low <= now <= settings.high else settings.high
    if len(measured) % settings.every:
        return now
    rates = {L: rate for L in geometric_cutoffs(settings.low, settings.high) if (rate := _rate(measured[-settings.over :], L))}
    if not rates:
        return now
    best = max(rates, key=lambda cutoff: rates[cutoff])
    return best if rates[best] > (1 + settings.margin) * rates.get(now, 0.0) else now


def _rate(rows: Sequence[Mapping[str, Any]], cutoff: int) -> float:
    """Signal per generated token at a cutoff; 0 where nothing was measured."""
    cost = sum(r.get(f"signal/{cutoff}/cost", 0.0) for r in rows)
    return sum(r.get(f"signal/{cutoff}/gain", 0.0) for r in rows) / cost if cost else 0.0
