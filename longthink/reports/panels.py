"""The figures of one run."""

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longthink.reports.page import BLUE, GREEN, GREY, ORANGE, PURPLE, figure
from longthink.reports.record import Record, inner, number
from longthink.stats import running_mean
from longthink.telling import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PARTS", "figures"]

PARTS = {"before": (GREY, "o"), "after": (BLUE, "o"), "control": (ORANGE, "s"), "direct": (PURPLE, "D")}
MAX_POINTS = 1000  # drawn in a panel: more only make the page heavy
PANELS = (  # title, what a point is, metric key, y label, factor, colour
    ("Reward", "mean over the responses of a step", "reward/mean", "reward", 1, BLUE),
    ("Response length", "mean over the responses of a step", "length/mean", "tokens", 1, GREEN),
    ("Clip ratio", "share of responses cut at the window", "length/clip_ratio", "% of responses", 100, ORANGE),
    ("Window", "largest response allowed", "window", "tokens", 1, BLUE),
    ("Entropy", "mean over the tokens of a step", "policy/entropy/mean", "nats per token", 1, PURPLE),
)
TAUGHT = (  # of fine-tuning alone: elsewhere the first is what is sampled, whose likelihood is no aim
    ("Loss", "mean over the learnt tokens of a step", "policy/sampled_nll/mean", "nats per token", 1, BLUE),
    ("Validation loss", "mean over the learnt tokens of the validation traces", "validation/loss", "nats per token", 1, GREEN),
)
TOOL = (  # where there is one
    ("Calls", "of the interpreter, mean over the responses of a step", "tool/calls/mean", "calls", 1, BLUE),
    ("Calls that failed", "exceptions, time-outs and limits", "tool/error_share", "% of calls", 100, ORANGE),
)


def figures(run: Record) -> str:
    """All figures there are data for, as HTML."""
    chosen = (*(TAUGHT if run.columns("validation/loss").size else ()), *PANELS, *TOOL)
    panels = [*(_step_panel(run, panel) for panel in chosen), _validation_panels(run), _cost_panel(run), _curve_panel(run.curve)]
    return "".join(panels)


def _mark(run: Record, axes: "Axes") -> None:
    """Vertical marks where stages start (solid, numbered) and where other events happened (dashed)."""
    stages, others, steps = run.stages(), run.other_events(), run.columns("step")
    axes.set_xlim(steps.min() - 0.5, steps.max() + 0.5)  # a panel is drawn only where there are steps
    for index, (step, name) in enumerate(stages if len(stages) > 1 else []):
        if index:
            axes.axvline(step - 0.5, color=GREY, lw=1)
        if len(stages) <= 8:
            label = ("" if index else "stage ") + name[:8].encode("ascii", "replace").decode()
            axes.text(step, 1.02, label, transform=axes.get_xaxis_transform(), size=7.5, color=GREY, parse_math=False)
    for step in others:
        axes.axvline(step, color=GREY, lw=0.9, ls=(0, (3, 3)), alpha=max(0.15, min(0.9, 12 / len(others))))
    axes.locator_params(axis="x", integer=True)


def _step_panel(run: Record, panel: tuple[str, str, str, str, int, str]) -> str:
    title, note, key, unit, factor, colour = panel
    x, y = run.columns("step", key)
    thin = slice(None, None, 1 + len(x) // MAX_POINTS)

    def draw(axes: "Axes") -> None:
        if key == "window":
            axes.step(x, y, where="mid", color=colour)
        else:
            axes.plot(x[thin], factor * y[thin], "o", ms=3, mew=0, color=colour, alpha=0.4)
            for start, end in itertools.pairwise([0, *np.searchsorted(x, run.breaks()), len(x)]):
                smooth = running_mean((factor * y[start:end]).tolist(), reach=min(max(len(x) // 40, 2), 50))
                axes.plot(x[start:end][thin], smooth[thin], color=colour)
        if 0 <= y.min() <= y.max() / 2 or key == "window":
            axes.set_ylim(bottom=0)
        _mark(run, axes)

    return figure(title, note, ("step", unit), draw) if len(x) else ""


def _error_bars(axes: "Axes", rows: NDArray[np.float64], **style: Any) -> None:
    """Accuracies in percent with their intervals; rows are x, accuracy, low, high."""
    x, y, low, high = rows
    errors = 100 * np.maximum([y - low, high - y], 0)
    axes.errorbar(x, 100 * y, errors, **{"elinewidth": 1, "capsize": 2.5, "ms": 5, **style})


def _validations(run: Record, x_key: str) -> NDArray[np.float64]:
    """[4, rows] x, accuracy, low, high of the validations; without an interval the bounds are the accuracy itself."""
    rows = [{k.removeprefix("validation/"): v for k, v in row.items() if number(v) is not None} for row in run.rows]
    rows = [{"low": row.get("accuracy"), "high": row.get("accuracy"), **row} for row in rows]
    return replace(run, rows=rows).columns(x_key, "accuracy", "low", "high")


def _validation_panels(run: Record) -> str:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter

        _error_bars(axes, points, fmt="o-", color=BLUE)
        if key == "step":
            _mark(run, axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    panels = ""
    for key, unit in (("step", "step"), ("tokens/generated", "generated tokens")):
        points = _validations(run, key)
        if points.size:
            panels += figure(f"Validation accuracy by {unit}", "with its interval", (unit, "accuracy (%)"), draw)
    return panels


def _curve_panel(curve: dict[str, Any]) -> str:
    def values(key: str) -> NDArray[np.float64]:
        column = curve.get(key)
        numbers = [number(v) for v in column] if isinstance(column, list) else []
        return np.array([] if None in numbers else numbers, float)

    cutoffs, low, high, first = values("cutoffs"), values("low"), values("high"), number(curve.get("recommended"))
    if not len(cutoffs) or cutoffs.min() <= 0:
        return ""

    def draw(axes: "Axes") -> None:
        for key, colour, style in (("accuracy", BLUE, "o-"), ("coverage", GREEN, "s-"), ("truncated", ORANGE, "^--")):
            if len(y := values(key)) == len(cutoffs):
                axes.plot(cutoffs, 100 * y, style, color=colour, ms=4, label=key)
        if len(low) == len(high) == len(cutoffs):
            axes.fill_between(cutoffs, 100 * low, 100 * high, color=BLUE, alpha=0.15, lw=0)
        if first is not None:
            axes.axvline(first, color=GREY, lw=1.2, label=f"{'direct at' if curve.get('direct') else 'start at'} {first:.0f}")
        axes.set_xscale("log", base=2)
        ticks = cutoffs[:: 1 + len(cutoffs) // 12]
        axes.set_xticks(ticks, [f"{c:.0f}" for c in ticks], size=8)
        axes.set_ylim(0, 100)

    labels = ("window (tokens)", "% of problems or samples")
    return figure("Accuracy by window", "one long sampling, cut", labels, draw, words(curve.get("reason", "")))


def _cost_panel(run: Record) -> str:
    found = {}
    for name in PARTS:
        x, y, low, high = (number(inner(run.summary, name).get(key)) for key in ("mean_tokens", "accuracy", "low", "high"))
        if x is not None and y is not None:
            found[name] = np.array([[x], [y], [y if low is None else low], [y if high is None else high]])
    path = np.hstack([p for p in (found.get("before"), _validations(run, "mean_tokens"), found.get("after")) if p is not None])
    if not path.size and not found:
        return ""

    def draw(axes: "Axes") -> None:
        axes.plot(path[0], 100 * path[1], "o-", color=GREEN, ms=3, lw=0.9, alpha=0.6, label="validations")
        for name, point in found.items():
            _error_bars(axes, point, fmt=PARTS[name][1], color=PARTS[name][0], ms=6.5, label=name)
        axes.margins(0.08)

    note = "up and to the left is better"
    return figure("Accuracy by response length", note, ("mean tokens per response", "accuracy (%)"), draw)
