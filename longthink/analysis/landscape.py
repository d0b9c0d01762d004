"""Accuracy × tokens of all evaluations, accuracy by benchmark, size and cost, with published numbers beside them where asked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longthink.analysis.cost import hours_of, published
from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.compare import Comparison
from longthink.evaluation.results import Evaluated
from longthink.reports.page import BLUE, COLOURS, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "costs", "frontier", "sizes"]


def frontier(made: Comparison, name: str, *, beside: bool = False) -> Exhibit:
    """The headline: each evaluation as mean tokens against accuracy, both with 95 % intervals over problems.

    Filled points are on the frontier; hollow ones are dominated, those beyond chance in light. Published points are grey crosses.
    Source: SIRI's figure 1.
    """
    points, dominated = made.points[name], made.dominated[name]
    rows: list[tuple[Any, ...]] = []
    for p in points:
        worse = dominated.get(p.name)
        state = f"dominated by {worse.by}{'' if worse.sure else ' (maybe)'}" if worse else "frontier"
        t, a = p.tokens, p.accuracy
        rows.append((p.name, t.mean, t.low, t.high, 100 * a.mean, 100 * a.low, 100 * a.high, state, made.efficiency.get(p.name)))
    theirs = [s for s in published()["score"] if len(s.get(name, ())) == 2] if beside else []
    rows += [
        (s["name"], s[name][1], None, None, s[name][0], None, None, f"published: {s['table']}", s["efficiency"]) for s in theirs
    ]
    on = [p.name for p in points if p.name not in dominated]

    def draw(axes: "Axes") -> None:
        ours = sorted((r for r in rows if r[0] in on), key=lambda r: r[1])
        axes.step([r[1] for r in ours], [r[4] for r in ours], where="post", color=GREEN, lw=1, alpha=0.7, label="frontier")
        if all(p.name.startswith("step ") for p in points):
            axes.plot([p.tokens.mean for p in points], [100 * p.accuracy.mean for p in points], color=GREY, lw=0.8, alpha=0.5)
        for p, row in zip(points, rows, strict=False):
            worse = dominated.get(p.name)
            face, shade = ("white" if worse else BLUE), (0.45 if worse and worse.sure else 1.0)
            spread = ([[row[1] - row[2]], [row[3] - row[1]]], [[row[4] - row[5]], [row[6] - row[4]]])
            axes.errorbar(row[1], row[4], xerr=spread[0], yerr=spread[1], fmt="none", ecolor=BLUE, alpha=0.35 * shade, lw=1)
            axes.plot(row[1], row[4], "o", mfc=face, mec=BLUE, alpha=shade, ms=6)
            axes.annotate(p.name, (row[1], row[4]), xytext=(5, 4), textcoords="offset points", fontsize=7)
        for s in theirs:
            axes.plot(s[name][1], s[name][0], "x", color=GREY, ms=5)
            axes.annotate(s["name"], (s[name][1], s[name][0]), xytext=(4, -8), textcoords="offset points", fontsize=6, color=GREY)
        axes.margins(0.12)

    said = f"On the frontier of {name}: {', '.join(on)}."
    sure = [p for p, d in dominated.items() if d.sure]
    said += f" Dominated beyond chance: {', '.join(sure)}." if sure else ""
    columns = ("model", "tokens", "low", "high", "accuracy %", "low", "high", "frontier", "ΔAcc/CR")
    note = "up and to the left is better; a run's steps are joined in their order"
    labels = ("mean tokens per response", "accuracy (%)")
    return Exhibit(stem("frontier", name), f"Accuracy × tokens: {name}", note, columns, rows, said, labels, draw)


def bars(made: Comparison, found: Sequence[Evaluated]) -> Exhibit:
    """Accuracy of every evaluation on every benchmark with its interval, as NVIDIA's and Open-RS's charts have it."""
    rows = [
        (name, p.name, 100 * p.accuracy.mean, 100 * p.accuracy.low, 100 * p.accuracy.high)
        for name in made.benchmarks
        for p in made.points[name]
    ]

    def draw(axes: "Axes") -> None:
        width = 0.8 / len(found)
        for number, evaluated in enumerate(found):
            own = [r for r in rows if r[1] == evaluated.name]
            places = [i + (number - (len(found) - 1) / 2) * width for i in range(len(own))]
            spread = [[r[2] - r[3] for r in own], [r[4] - r[2] for r in own]]
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(places, [r[2] for r in own], width * 0.92, color=colour, label=evaluated.name, yerr=spread, capsize=2)
        axes.set_xticks(range(len(made.benchmarks)), made.benchmarks)
        axes.set_ylim(0, 100)

    columns = ("benchmark", "model", "accuracy %", "low", "high")
    return Exhibit("benchmarks", "Accuracy by benchmark", "95 % intervals", columns, rows, "", ("", "accuracy (%)"), draw)


def sizes(made: Comparison, found: Sequence[Evaluated], name: str) -> Exhibit | None:
    """Accuracy on a benchmark against billions of parameters, with the published models; None where no size is known."""
    ours = [e.facts["parameters"] / 1e9 if e.facts.get("parameters") else None for e in found]
    theirs = [(s, s["size"]) for s in published()["score"] if name in s]
    return _against(made, name, ours, theirs, "size", "billion parameters")


def costs(made: Comparison, found: Sequence[Evaluated], name: str, price: float) -> Exhibit | None:
    """Accuracy on a benchmark against what training cost, in money with a price, else in hours of processes or GPUs.

    An evaluated checkpoint costs what its run had spent by then; contradictory published costs are a point each. None where no
    cost is known. Source: Open-RS's figure of score against cost.
    """
    key, unit, factor = ("dollars", "money", price) if price else ("gpu_hours", "process or GPU hours", 1.0)
    ours = [None if (hours := hours_of(e)) is None else factor * hours for e in found]
    spent = [(c["name"], c[key]) for c in published()["cost"] if key in c]
    scores = [s for s in published()["score"] if name in s]
    theirs = [(s, value) for s in scores for model, value in spent if s["name"].startswith(model)]
    return _against(made, name, ours, theirs, "cost", unit)


def _against(
    made: Comparison,
    name: str,
    ours: Sequence[float | None],
    theirs: Sequence[tuple[dict[str, Any], float]],
    kind: str,
    unit: str,
) -> Exhibit | None:
    at = zip(made.points[name], ours, strict=True)
    rows: list[tuple[Any, ...]] = [(p.name, x, 100 * p.accuracy.mean, "this evaluation") for p, x in at if x]
    if not rows or not theirs:
        return None
    rows += [(s["name"], x, s[name][0], f"published: {s['table']}") for s, x in theirs]

    def draw(axes: "Axes") -> None:
        for row in rows:
            own = row[3] == "this evaluation"
            axes.plot(row[1], row[2], "o" if own else "x", color=ORANGE if own else GREY)
            axes.annotate(row[0], (row[1], row[2]), xytext=(4, 3), textcoords="offset points", fontsize=6)
        axes.set_xscale("log")
        axes.margins(0.15)

    columns = ("model", unit, "accuracy %", "said by")
    labels = (unit, "accuracy (%)")
    return Exhibit(stem(kind, name), f"Accuracy by {kind}: {name}", "crosses are published", columns, rows, "", labels, draw)
