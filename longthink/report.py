"""One offline page about a run: what changed, how it went step by step, what was decided and why."""

import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longthink import storage
from longthink.errors import CheckpointError
from longthink.stats import running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render_table", "write_report"]

BLUE, GREEN, ORANGE, PURPLE, GREY = "#0072b2", "#00805c", "#c65100", "#8a5aa8", "#767676"  # apart for colour-blind readers too
PARTS = {"before": (GREY, "o"), "after": (BLUE, "o"), "control": (ORANGE, "s"), "direct": (PURPLE, "D")}
COLUMNS = ("", "accuracy", "95 % interval", "mean tokens", "truncated", "problems", "samples")
MAX_POINTS, MAX_EVENTS = 1000, 200  # drawn in a panel, listed in the table: more only make the page heavy
WIDTH, HEIGHT = 4.6, 2.6  # inches of a figure: its 9-point text stays readable at the width of a phone
PANELS = (  # title, what a point is, metric key, y label, factor, colour
    ("Reward", "mean over the responses of a step", "reward/mean", "reward", 1, BLUE),
    ("Response length", "mean over the responses of a step", "length/mean", "tokens", 1, GREEN),
    ("Clip ratio", "share of responses cut at the window", "length/clip_ratio", "% of responses", 100, ORANGE),
    ("Window", "largest response allowed", "window", "tokens", 1, BLUE),
    ("Entropy", "mean over the tokens of a step", "policy/entropy/mean", "nats per token", 1, PURPLE),
)
STYLE: dict[str, Any] = {
    **{"svg.fonttype": "none", "font.size": 9, "legend.fontsize": 8, "legend.frameon": False, "lines.linewidth": 1.6},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY},
    **{"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#e6e6e6"},
}
CSS = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--page:#f5f6f8;--card:#fff;--line:#dde1e7}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--page:#14181e;--card:#1d232b;--line:#343c47}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:74rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.note{color:var(--soft);font-size:.9rem;margin:.3rem 0 1rem}
.scroll,figure,details,.verdict{border:1px solid var(--line);border-radius:8px;background:var(--card);break-inside:avoid}
.verdict{font-size:1.15rem;border-left:4px solid #0072b2;padding:.7rem 1rem;margin:1rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}tbody tr{border-top:1px solid var(--line)}
th,td{padding:.45rem .8rem;text-align:left;vertical-align:top}th{color:var(--soft);font-weight:600;white-space:nowrap}
.numbers :is(th,td){text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.numbers tr>:first-child{text-align:left;font-weight:600}
.events td{overflow-wrap:anywhere}.events td:nth-child(-n+3){white-space:nowrap}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1rem}
figure{margin:0;padding:.8rem .8rem .4rem;background:#fff}figure,figcaption b{color:#1c2430}
figcaption{font-size:.85rem;color:#5b6675}figcaption b{font-size:1rem;margin-right:.4em}
svg{display:block;width:100%;height:auto}figure p{font-size:.85rem;margin:.3rem 0 .5rem}
details{padding:.6rem 1rem}summary{cursor:pointer;font-weight:600}pre{overflow-x:auto;font-size:.85rem}
@media(max-width:40rem){thead{display:none}table :is(tr,td){display:block}tr{padding:.5rem 0}td{padding:.1rem .8rem}
.numbers td:nth-child(n+2){display:inline-block;padding-right:0}.numbers td:empty{display:none}
td::before{content:attr(data-label) " ";color:var(--soft);font-size:.85em;font-weight:400}}
@media print{:root{--ink:#000;--soft:#444;--page:#fff;--card:#fff;--line:#ccc}body{font-size:10pt;padding:0}
.grid{grid-template-columns:1fr 1fr}th,td{padding:.3rem .5rem;font-size:.78rem}}
"""


def write_report(run: Path) -> Path:
    """The path of the `report.html` written into a run folder: one file, no script, nothing to load.

    A missing file or metric leaves its part of the page out. Everything read from the run is escaped.

    Raises: CheckpointError when the folder is no run or one of its files is not JSON.
    """
    path = run / "report.html"
    storage.replace_file(path, _page(_read(run)).encode("utf-8", "replace"))
    return path


def render_table(summary: dict[str, Any]) -> str:
    """The evaluations of `summary.json` as a plain table for a terminal, ending in a line break.

    >>> print(render_table({"after": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "mean_tokens": 81.3}}), end="")
           accuracy  95 % interval  mean tokens  truncated  problems  samples
    after    50.0 %   40.0 to 60.0         81.3          -         -        -
    """
    rows = _summary_rows(summary)
    if not rows:
        return "no evaluation is recorded\n"
    lines = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "".join("  ".join(line) + "\n" for line in padded)


@dataclass(frozen=True, slots=True)
class _Run:
    """What the files of a run folder hold."""

    name: str
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    curve: dict[str, Any]
    recipe: str

    def columns(self, *keys: str) -> NDArray[np.float64]:
        """[len(keys), rows]: the rows in which every one of the keys is a number."""
        rows = [[_number(row.get(key)) for key in keys] for row in self.rows]
        return np.array([row for row in rows if None not in row], float).reshape(-1, len(keys)).T

    def stages(self) -> list[tuple[float, str]]:
        """First step and name of every stage."""
        found: list[tuple[float, str]] = []
        for row in self.rows:
            step, stage = _number(row.get("step")), row.get("stage")
            if step is not None and stage is not None and (not found or found[-1][1] != str(stage)):
                found.append((step, str(stage)))
        return found

    def other_events(self) -> list[float]:
        """The steps of events that start no stage."""
        others = (e for e in self.events if "stage" not in str(e.get("kind")) and "stage" not in _table(e, "action"))
        return sorted({step for e in others if (step := _number(e.get("step"))) is not None})


def _read(run: Path) -> _Run:
    if not any((run / name).is_file() for name in ("metrics.jsonl", "recipe.toml")):
        raise CheckpointError(f"{run}: not a run folder; expected metrics.jsonl or recipe.toml in it (give the folder of a run)")
    recipe = run / "recipe.toml"
    return _Run(
        name=run.resolve().name,
        rows=storage.read_lines(run / "metrics.jsonl"),
        events=storage.read_lines(run / "events.jsonl"),
        summary=_read_object(run / "summary.json"),
        curve=_read_object(run / "window_curve.json"),
        recipe=recipe.read_text("utf-8", "replace") if recipe.is_file() else "",
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as e:
        raise CheckpointError(f"{path}: not JSON ({e}); write it again or remove it") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a JSON object; write it again or remove it")
    return value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _shown(value: Any, pattern: str = "{:.1f}", factor: float = 1.0) -> str:
    number = _number(value)
    return "-" if number is None else pattern.format(factor * number)


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    def row(name: str, pattern: str) -> tuple[str, ...]:
        part = _table(summary, name)
        bounds = [_shown(part.get(key), pattern.split()[0], 100) for key in ("low", "high")]
        counts = (_shown(part.get("problems"), "{:,.0f}"), _shown(part.get("samples"), "{:,.0f}"))
        accuracy = _shown(part.get("accuracy", part.get("mean")), pattern, 100)
        tokens, truncated = _shown(part.get("mean_tokens"), "{:,.1f}"), _shown(part.get("truncated"), "{:.1f} %", 100)
        return name, accuracy, "-" if "-" in bounds else " to ".join(bounds), tokens, truncated, *counts

    rows = [row(name, "{:.1f} %") for name in PARTS if _table(summary, name)]
    return [*rows, row("difference", "{:+.1f} points")] if _table(summary, "difference") else rows


def _verdict(summary: dict[str, Any]) -> str:
    mean, low, high = (_number(_table(summary, "difference").get(key)) for key in ("mean", "low", "high"))
    if mean is None:
        return "No comparison of before and after is recorded."
    points = f"{100 * mean:+.1f} points"
    if low is None or high is None:
        return f"Accuracy after minus before: {points}; no interval is recorded, so this may be chance."
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low <= 0 <= high:
        return f"After is not distinguishable from before: {points}, {interval}, which contains 0."
    before, after = (_shown(_table(summary, name).get("accuracy"), "{:.1f} %", 100) for name in ("before", "after"))
    levels = "" if "-" in (before, after) else f" from {before} to {after}"
    return f"Accuracy {'rose' if mean > 0 else 'fell'}{levels}: {points} ({interval})."


def _words(value: Any) -> str:
    """A value of an event as a reader would say it.

    >>> _words({"reward_slope": {"mean": 0.00012346, "low": -1e-3, "high": 2e-3}, "window": 128, "plateau": True})
    'reward slope 0.0001235 (-0.001 to 0.002), window 128, plateau yes'
    """
    match value:
        case None | bool():
            return {None: "none", True: "yes", False: "no"}[value]
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case {"mean": mean, "low": low, "high": high}:
            return f"{_words(mean)} ({_words(low)} to {_words(high)})"
        case dict():
            return ", ".join(f"{re.sub('[_/]+', ' ', str(key))} {_words(v)}" for key, v in value.items())
        case [first, second, _, _, _, _, *_, last]:
            return f"{_words([first, second])}, … {_words(last)} ({len(value)} values)"
        case list():
            return ", ".join(map(_words, value))
    return str(value)


def _figure(title: str, note: str, labels: tuple[str, str], draw: Callable[["Axes"], None], after: str = "") -> str:
    """A drawing as inline SVG, without what the page already gives: namespaces, names of groups, a font."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.155, 0.175, 0.825, 0.705))
        draw(axes)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.06, 0.98), ncols=5, handlelength=1.4, columnspacing=1.2)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = out.getvalue().partition("<svg")[2].partition(">")[2]
    drawing = re.sub(r'<g id="[^"]*"', "<g", re.sub(r" font-family: [^;]*;", "", drawing))
    start = f'<svg viewBox="0 0 {72 * WIDTH:g} {72 * HEIGHT:g}" role="img" aria-label="{title}">'
    below = f"<p>{html.escape(after)}</p>" if after else ""
    return f"<figure><figcaption><b>{title}</b>{note}</figcaption>{start}{drawing}{below}</figure>"


def _mark(run: _Run, axes: "Axes") -> None:
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


def _step_panel(run: _Run, panel: tuple[str, str, str, str, int, str]) -> str:
    title, note, key, unit, factor, colour = panel
    x, y = run.columns("step", key)
    thin = slice(None, None, 1 + len(x) // MAX_POINTS)

    def draw(axes: "Axes") -> None:
        if key == "window":
            axes.step(x, y, where="mid", color=colour)
        else:
            axes.plot(x[thin], factor * y[thin], "o", ms=3, mew=0, color=colour, alpha=0.4)
            for start, end in itertools.pairwise([0, *np.searchsorted(x, [step for step, _ in run.stages()]), len(x)]):
                smooth = running_mean((factor * y[start:end]).tolist(), reach=min(max(len(x) // 40, 2), 50))
                axes.plot(x[start:end][thin], smooth[thin], color=colour)
        if 0 <= y.min() <= y.max() / 2 or key == "window":
            axes.set_ylim(bottom=0)
        _mark(run, axes)

    return _figure(title, note, ("step", unit), draw) if len(x) else ""


def _points(axes: "Axes", rows: NDArray[np.float64], **style: Any) -> None:
    """Accuracies in percent with their intervals; rows are x, accuracy, low, high."""
    x, y, low, high = rows
    errors = 100 * np.maximum([y - low, high - y], 0)
    axes.errorbar(x, 100 * y, errors, **{"elinewidth": 1, "capsize": 2.5, "ms": 5, **style})


def _validations(run: _Run, x_key: str) -> NDArray[np.float64]:
    """[4, rows] x, accuracy, low, high of the validations; without an interval the bounds are the accuracy itself."""
    rows = [{k.removeprefix("validation/"): v for k, v in row.items() if _number(v) is not None} for row in run.rows]
    rows = [{"low": row.get("accuracy"), "high": row.get("accuracy"), **row} for row in rows]
    return replace(run, rows=rows).columns(x_key, "accuracy", "low", "high")


def _validation_panels(run: _Run) -> str:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter

        _points(axes, points, fmt="o-", color=BLUE)
        if key == "step":
            _mark(run, axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    panels = ""
    for key, unit in (("step", "step"), ("tokens/generated", "generated tokens")):
        points = _validations(run, key)
        if points.size:
            panels += _figure(f"Validation accuracy by {unit}", "with its interval", (unit, "accuracy (%)"), draw)
    return panels


def _curve_panel(curve: dict[str, Any]) -> str:
    def values(key: str) -> NDArray[np.float64]:
        column = curve.get(key)
        numbers = [_number(v) for v in column] if isinstance(column, list) else []
        return np.array([] if None in numbers else numbers, float)

    cutoffs, low, high, first = values("cutoffs"), values("low"), values("high"), _number(curve.get("recommended"))
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
    return _figure("Accuracy by window", "one long sampling, cut", labels, draw, _words(curve.get("reason", "")))


def _cost_panel(run: _Run) -> str:
    found = {}
    for name in PARTS:
        x, y, low, high = (_number(_table(run.summary, name).get(key)) for key in ("mean_tokens", "accuracy", "low", "high"))
        if x is not None and y is not None:
            found[name] = np.array([[x], [y], [y if low is None else low], [y if high is None else high]])
    path = np.hstack([p for p in (found.get("before"), _validations(run, "mean_tokens"), found.get("after")) if p is not None])
    if not path.size and not found:
        return ""

    def draw(axes: "Axes") -> None:
        axes.plot(path[0], 100 * path[1], "o-", color=GREEN, ms=3, lw=0.9, alpha=0.6, label="validations")
        for name, point in found.items():
            _points(axes, point, fmt=PARTS[name][1], color=PARTS[name][0], ms=6.5, label=name)
        axes.margins(0.08)

    note = "up and to the left is better"
    return _figure("Accuracy by response length", note, ("mean tokens per response", "accuracy (%)"), draw)


def _page(run: _Run) -> str:
    title = html.escape(f"longthink run {run.name}")
    steps, tokens = run.columns("step"), run.columns("tokens/generated")
    facts = [f"{steps.max(initial=0):.0f} steps", f"{tokens.max(initial=0):,.0f} tokens generated in training"]
    facts = facts[: 2 if tokens.size else 1]
    facts += [_shown(run.summary.get(k), p) for k, p in (("seconds", "{:,.0f} s"), ("seed", "seed {:.0f}")) if k in run.summary]
    panels = [*(_step_panel(run, panel) for panel in PANELS), _validation_panels(run), _cost_panel(run), _curve_panel(run.curve)]
    verdict = f'<p class="verdict">{html.escape(_verdict(run.summary)).replace(" %", "&nbsp;%")}</p>' if run.summary else ""
    empty = "" if steps.size else "<p>No step is recorded yet: metrics.jsonl has no rows, so there are no training curves.</p>"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{CSS}</style></head><body>
<h1>{title}</h1><p class="note">{" · ".join(facts)}</p>{verdict}
{_rows_table("numbers", COLUMNS, _summary_rows(run.summary))}{_events(run.events)}
<h2>Figures</h2>{empty}<p class="note">Light points are steps, the line is their running mean within a stage.
A solid grey line with a number starts a stage, a dashed one is another event.</p><div class="grid">{"".join(panels)}</div>
{_recipe(run.recipe)}
</body></html>
"""


def _rows_table(kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{c}</th>" for c in columns)
    shown = ([(c, "" if v == "-" else html.escape(v)) for c, v in zip(columns, row, strict=True)] for row in rows)
    body = "".join("<tr>" + "".join(f'<td data-label="{c}">{v}</td>' for c, v in row) + "</tr>" for row in shown)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _events(events: list[dict[str, Any]]) -> str:
    columns = ("step", "kind", "rule", "action", "evidence")
    table = _rows_table("events", columns, [[_words(e.get(c, "")) for c in columns] for e in events[:MAX_EVENTS]])
    more = f'<p class="note">and {len(events) - MAX_EVENTS} more in events.jsonl</p>' if len(events) > MAX_EVENTS else ""
    return f"<h2>Decisions and their evidence</h2>{table}{more}" if events else ""


def _recipe(text: str) -> str:
    return f"<h2>Recipe</h2><details><summary>recipe.toml</summary><pre>{html.escape(text)}</pre></details>" if text else ""
