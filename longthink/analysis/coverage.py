"""Accuracy and coverage against the context window, from one long sampling: where to start training, and what comes next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.results import Evaluated
from longthink.reports.page import BLUE, GREEN, GREY, ORANGE
from longthink.window import geometric_cutoffs, next_windows, recommend, window_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["coverage"]


def coverage(evaluated: Evaluated, name: str, cutoffs: Sequence[int] = ()) -> Exhibit:
    """The share of samples correct within each cutoff with its interval, pass@n beside it, and the share that is longer.

    The last row is the sampling's own window: what met it is longer than all, and would have been longer still. The share correct
    is DeepScaleR's coverage: its table 3 gives the same number as Start Acc. Source: DeepScaleR 3.3, figure 7.
    """
    answers = evaluated.sets[name]
    window = int(answers.facts.get("window", evaluated.window))
    rows = [[(window + 1 if s.truncated and not s.solved else s.tokens, s.score or 0.0) for s in row] for row in answers.graded]
    if not cutoffs:
        longest = max(s.tokens for s in answers.every)
        cutoffs = geometric_cutoffs(max(1, min(window, longest) // 16), window)
    cutoffs = sorted({*(c for c in cutoffs if c < window), window})
    curve = window_curve(rows, cutoffs)
    plan = recommend(curve, window)
    cut = curve.truncated[-1]
    said = (
        f"{evaluated.name}: train at {window} tokens from the start"
        if plan.direct
        else f"{evaluated.name}: start at {plan.window}"
    )
    more = next_windows(plan, window)[1:]
    said += f", then {', '.join(map(str, more))} tokens" if more else "" if plan.direct else " tokens"
    said += f": {plan.reason}. {cut:.1%} of the samples met the limit of {window} tokens and are right nowhere."
    table = [
        (c, 100 * a.mean, 100 * a.low, 100 * a.high, 100 * p, 100 * t)
        for c, a, p, t in zip(curve.cutoffs, curve.accuracy, curve.coverage, curve.truncated, strict=True)
    ]

    def draw(axes: "Axes") -> None:
        x, mean, low, high, solved, longer = zip(*table, strict=True)
        axes.plot(x, mean, "o-", color=BLUE, ms=4, label="correct samples")
        axes.fill_between(x, low, high, color=BLUE, alpha=0.15, lw=0)
        axes.plot(x, solved, "s-", color=GREEN, ms=4, label=f"pass@{min(map(len, rows))}")
        axes.plot(x, longer, "^--", color=ORANGE, ms=4, label="longer than the window")
        axes.axvline(window if plan.direct else plan.window, color=GREY, lw=1, ls=":", label="recommended start")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x[:: 1 + len(x) // 10], [f"{c:,}" for c in x[:: 1 + len(x) // 10]], size=8)
        axes.minorticks_off()
        axes.set_ylim(0, 100)

    columns = ("window", "correct %", "low", "high", "pass@n %", "longer %")
    title = f"Coverage by window: {evaluated.name}, {name}"
    return Exhibit(
        stem("coverage", evaluated.name, name),
        title,
        "one long sampling, cut; log scale",
        columns,
        table,
        said,
        ("window (tokens)", "%"),
        draw,
    )
