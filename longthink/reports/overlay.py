"""Several runs on one page: one panel a metric, runs that differ only in their seed as one line with a band."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longthink import storage
from longthink.errors import RecipeError
from longthink.reports.page import COLOURS, document, figure, rows_table
from longthink.reports.record import Record, read_record
from longthink.stats import mean_interval, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AXES", "write_overlay"]

AXES = {"steps": "step", "tokens": "generated tokens", "seconds": "seconds", "gpu_hours": "hours of all processes"}
PANELS = (  # title, metric, label, factor
    ("Validation accuracy", "validation/accuracy", "accuracy (%)", 100),
    ("Validation length", "validation/mean_tokens", "tokens", 1),
    ("Reward", "reward/mean", "reward", 1),
    ("Response length", "length/mean", "tokens", 1),
    ("Clip ratio", "length/clip_ratio", "% of responses", 100),
    ("Window", "window", "tokens", 1),
    ("Entropy", "policy/entropy/mean", "nats per token", 1),
    ("KL to the reference", "loss/kl/mean", "nats per token", 1),
    ("Groups without a signal", "group/constant_share", "% of groups", 100),
)
LINES = ("-", "--", ":")
GRID = 200  # points of a band


class Line(NamedTuple):
    """The runs of one setting."""

    name: str
    runs: list[Record]
    processes: list[int]


def write_overlay(folders: Sequence[Path], out: Path, by: str) -> Path:
    """The page `out` about several run folders, with metrics against `by`, one of AXES.

    Runs in folders `NAME/seed_S`, as a sweep makes them, are one line: the mean over the seeds where all have a value, and a band
    from the lowest to the highest. Others are a line each. Raises: CheckpointError for a folder that is no run.
    """
    lines: dict[Path, Line] = {}
    for folder in folders:
        path = folder.resolve()
        at = path.parent if re.fullmatch(r"seed_\d+", path.name) else path
        record = read_record(folder)
        found = re.search(r"^processes = (\d+)", record.recipe, re.MULTILINE)
        line = lines.setdefault(at, Line(at.name, [], []))
        line.runs.append(record)
        line.processes.append(int(found[1]) if found else 1)
    names = [line.name for line in lines.values()]
    lines = {
        at: line._replace(name=f"{at.parent.name}/{at.name}" if names.count(at.name) > 1 else at.name)
        for at, line in lines.items()
    }
    if len(lines) > len(LINES) * len(COLOURS):
        raise RecipeError(
            f"{len(lines)} lines cannot be told apart in one figure; give at most {len(LINES) * len(COLOURS)} settings"
        )
    body = f"""{rows_table("numbers", COLUMNS, [_row(line) for line in lines.values()])}
<h2>Figures</h2><p class="note">A line is the mean over the seeds of a setting, a band goes from the lowest to the highest.
<br>{_legend(lines.values())}</p>
<div class="grid">{"".join(_panel(panel, list(lines.values()), by) for panel in PANELS)}</div>"""
    runs = f"{len(folders)} runs of {len(lines)} settings"
    storage.replace_file(out, document("longthink runs compared", [runs, f"by {AXES[by]}"], body).encode("utf-8", "replace"))
    return out


COLUMNS = ("setting", "seeds", "last validation accuracy", "95 % interval over seeds", "mean tokens", "generated tokens")


def _legend(lines: Iterable[Line]) -> str:
    """Each setting's name in its colour, behind a stroke of its line."""
    style = dict(zip(LINES, ("solid", "dashed", "dotted"), strict=True))
    found = []
    for place, line in enumerate(lines):
        colour, stroke = COLOURS[place % len(COLOURS)], style[LINES[place // len(COLOURS)]]
        found.append(f'<span style="border-top:3px {stroke} {colour};margin-right:1.4em">{html.escape(line.name)}</span>')
    return "".join(found)


def _row(line: Line) -> tuple[str, ...]:
    accuracies = [float(v[-1]) for run in line.runs if len(v := run.columns("validation/accuracy")[0])]
    lengths = [float(v[-1]) for run in line.runs if len(v := run.columns("validation/mean_tokens")[0])]
    tokens = [float(v[-1]) for run in line.runs if len(v := run.columns("tokens/generated")[0])]
    interval = mean_interval([[a] for a in accuracies]) if len(accuracies) > 1 else None
    return (
        line.name,
        str(len(line.runs)),
        f"{100 * sum(accuracies) / len(accuracies):.1f} %" if accuracies else "-",
        f"{100 * interval.low:.1f} to {100 * interval.high:.1f}" if interval else "-",
        f"{sum(lengths) / len(lengths):,.1f}" if lengths else "-",
        f"{sum(tokens) / len(tokens):,.0f}" if tokens else "-",
    )


def _points(run: Record, key: str, by: str, processes: int) -> NDArray[np.float64]:
    """[2, rows]: where a run's rows lie on the axis, and the metric."""
    match by:
        case "steps" | "tokens":
            return run.columns({"steps": "step", "tokens": "tokens/generated"}[by], key)
        case _:
            steps, seconds = run.columns("step", "time/step_s")
            at = np.cumsum(seconds) if by == "seconds" else np.cumsum(seconds) * processes / 3600
            own, values = run.columns("step", key)
            return np.array([np.interp(own, steps, at) if len(at) else own * 0, values])


def _panel(panel: tuple[str, str, str, int], lines: Sequence[Line], by: str) -> str:
    title, key, unit, factor = panel
    drawn = []
    for place, line in enumerate(lines):
        each = [_points(run, key, by, n) for run, n in zip(line.runs, line.processes, strict=True)]
        each = [points for points in each if points.shape[1]]
        if each:
            drawn.append((place, each))

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for place, each in drawn:
            colour, dash = COLOURS[place % len(COLOURS)], LINES[place // len(COLOURS)]
            ends = max(p[0][0] for p in each), min(p[0][-1] for p in each)
            grid = np.linspace(*ends, GRID)
            smooth = 1 if key.startswith("validation") or key == "window" else 2
            values = np.array([np.interp(grid, p[0], running_mean((factor * p[1]).tolist(), smooth - 1)) for p in each])
            axes.plot(grid, values.mean(0), dash, color=colour)
            if len(each) > 1:
                axes.fill_between(grid, values.min(0), values.max(0), color=colour, alpha=0.13, lw=0)

    return figure(title, f"by {AXES[by]}", (AXES[by], unit), draw) if drawn else ""
