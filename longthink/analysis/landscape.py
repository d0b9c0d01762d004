"""Accuracy × tokens of all evaluations, accuracy by benchmark, size and cost, with published numbers beside them where asked."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longthink.analysis.cost import hours_of, published
from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.compare import Comparison
from longthink.evaluation.results import Evaluated
from longthink.reports.page import BLUE, COLOURS, GREEN, GREY, HATCHES, MARKERS, ORANGE, name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "costs", "frontier", "sizes"]


def frontier(made: Comparison, name: str, *, beside: bool = False) -> Exhibit:
    """The headline: each evaluation as mean tokens against accuracy, both with 95 % intervals over problems.

    Filled points are on the frontier; hollow ones are dominated, those beyond chance in light. Published points are grey crosses.
    The steps of a run share a mark and are joined in their order. Source: SIRI's figure 1.
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

    runs = [p.name.rpartition("step ")[0] if re.search(r"(^|/)step \d+$", p.name) else None for p in points]
    groups = list(dict.fromkeys(r for r in runs if r is not None))

    def draw(axes: "Axes") -> None:
        ours = sorted((r for r in rows if r[0] in on), key=lambda r: r[1])
        corners = [r[1] for r in ours], [r[4] for r in ours]
        axes.step(*corners, where="post", color=GREEN, lw=5, alpha=0.2, solid_capstyle="butt", zorder=0, label="frontier")
        for at, run in enumerate(groups):
            own = [p for p, r in zip(points, runs, strict=True) if r == run]
            colour = COLOURS[(at + 1) % len(COLOURS)]
            label = run.rstrip("/") if len(groups) > 1 else None
            mark = MARKERS[at % len(MARKERS)]
            along = [p.tokens.mean for p in own], [100 * p.accuracy.mean for p in own]
            axes.plot(*along, color=colour, lw=0.8, marker=mark, ms=6, mfc="none", label=label, zorder=1)
        for p, group, row in zip(points, runs, rows, strict=False):
            worse = dominated.get(p.name)
            at = 0 if group is None else groups.index(group) + 1
            colour, mark = COLOURS[at % len(COLOURS)] if at else BLUE, MARKERS[(at - 1) % len(MARKERS)] if at else "o"
            face, shade = ("white" if worse else colour), (0.45 if worse and worse.sure else 1.0)
            spread = ([[row[1] - row[2]], [row[3] - row[1]]], [[row[4] - row[5]], [row[6] - row[4]]])
            axes.errorbar(row[1], row[4], xerr=spread[0], yerr=spread[1], fmt="none", ecolor=colour, alpha=0.35 * shade, lw=1)
            axes.plot(row[1], row[4], mark, mfc=face, mec=colour, alpha=shade, ms=6)
        for s in theirs:
            axes.plot(s[name][1], s[name][0], "x", color=GREY, ms=5)
        axes.margins(0.12)
        first = sorted(zip(points, rows, strict=False), key=lambda pair: pair[0].name in dominated)
        named = [(p.name.rpartition("/")[2] if groups else p.name, row[1], row[4]) for p, row in first]
        name_points(axes, [*named, *((s["name"], s[name][1], s[name][0]) for s in theirs)])

    said = f"On the frontier of {name}: {', '.join(on)}."
    sure = [p for p, d in dominated.items() if d.sure]
    said += f" Dominated beyond chance: {', '.join(sure)}." if sure else ""
    columns = ("model", "tokens", "from", "to", "accuracy %", "low", "high", "frontier", "ΔAcc/CR")
    note = "up and to the left is better; hollow: dominated, light: beyond chance" + "; crosses: published" * bool(theirs)
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
            look: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)],
            }
            axes.barh(places, [r[2] for r in own], width * 0.92, **look, edgecolor="white", lw=0, label=evaluated.name)
            axes.errorbar([r[2] for r in own], places, xerr=spread, fmt="none", ecolor="black", lw=0.8)
        axes.set_yticks(range(len(made.benchmarks)), made.benchmarks, size=min(8, 110 / len(made.benchmarks)))
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)

    columns = ("benchmark", "model", "accuracy %", "low", "high")
    return Exhibit("benchmarks", "Accuracy by benchmark", "95 % intervals", columns, rows, "", ("accuracy (%)", ""), draw)


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
        axes.set_xscale("log")
        axes.margins(0.15)
        name_points(axes, [row[:3] for row in rows], size=6)

    columns = ("model", unit, "accuracy %", "said by")
    labels = (unit, "accuracy (%)")
    return Exhibit(
        stem(kind, name), f"Accuracy by {kind}: {name}", "crosses: published, log scale", columns, rows, "", labels, draw
    )
