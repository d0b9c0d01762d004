"""Test-time scaling: majority votes against samples and against tokens, several models side by side."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.results import Evaluated
from longthink.evaluation.scores import ballots
from longthink.evaluation.votes import majority_curve
from longthink.reports.page import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["scaling"]


def scaling(found: Sequence[Evaluated], name: str, seed: int = 0, *, replace: bool = False) -> list[Exhibit]:
    """maj@k by 300 resamplings, mean and std over them, against k and against the tokens a problem takes.

    Source: DeepScaleR's figure of 64 samples a problem, 300 trials.
    """
    rows: list[tuple[Any, ...]] = []
    for evaluated in found:
        curve = majority_curve(ballots(evaluated.sets[name].graded), seed, replace=replace)
        rows += [(evaluated.name, k, 100 * m, 100 * s, t) for k, m, s, t in zip(*curve, strict=True)]

    columns = ("model", "samples", "maj@k %", "std over trials", "tokens a problem")
    said = "; ".join(
        f"{own[0]}: {own[2]:.1f} % with {own[1]} samples" for own in ([r for r in rows if r[0] == e.name][-1] for e in found)
    )
    exhibits = []
    for kind, axis, column in (("scaling", "samples", 1), ("scaling_tokens", "tokens", 4)):
        title, labels = f"Majority vote by {axis}: {name}", (f"{axis} a problem", "maj@k (%)")
        words = said if column == 1 else ""
        note = "mean of 300 resamplings and their standard deviation, which is no interval; log scale"
        draw = _drawing(rows, column)
        exhibits.append(Exhibit(stem(kind, name), title, note, columns, rows, words, labels, draw, quiet=not words))
    return exhibits


def _doublings(values: Sequence[float]) -> list[float]:
    """Powers of two times the least value, rounded to two digits, up to the largest."""
    digits = 10 ** (len(f"{min(values):.0f}") - 2)
    first = max(1.0, round(min(values) / digits) * digits)
    return [first * 2**i for i in range(24) if first * 2**i <= 1.1 * max(values)]


def _drawing(rows: Sequence[tuple[Any, ...]], column: int) -> "Callable[[Axes], None]":
    names = list(dict.fromkeys(row[0] for row in rows))

    def draw(axes: "Axes") -> None:
        for number, name in enumerate(names):
            own = [row for row in rows if row[0] == name]
            x, mean, std = ([r[i] for r in own] for i in (column, 2, 3))
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(
                x, mean, yerr=std, fmt=f"{MARKERS[number % len(MARKERS)]}-", color=colour, ms=4, capsize=2, lw=1.4, label=name
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({r[1] for r in rows}) if column == 1 else _doublings([r[column] for r in rows])
        axes.set_xticks(ticks, [f"{k:,.0f}" for k in ticks])
        axes.minorticks_off()

    return draw
