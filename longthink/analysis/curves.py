"""Training curves of runs as exhibits: one a metric, for csv and picture; runs that differ only in their seed are one line."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longthink.analysis.exhibit import Exhibit, stem
from longthink.errors import RecipeError
from longthink.reports.page import COLOURS
from longthink.reports.record import Record, distinct_names, read_record
from longthink.stats import mean_interval, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AXES", "curves"]

AXES = {"steps": "step", "tokens": "generated tokens", "seconds": "seconds", "gpu_hours": "hours of all processes"}
PANELS = (  # title, metric, label, factor
    ("Validation accuracy", "validation/accuracy", "accuracy (%)", 100),
    ("Validation length", "validation/mean_tokens", "tokens", 1),
    ("Reward", "reward/mean", "reward", 1),
    ("Response length", "length/mean", "tokens", 1),
    ("Length of right responses", "length/right_mean", "tokens", 1),
    ("Length of wrong responses", "length/wrong_mean", "tokens", 1),
    ("Clip ratio", "length/clip_ratio", "% of responses", 100),
    ("Window", "window", "tokens", 1),
    ("Entropy", "policy/entropy/mean", "nats per token", 1),
    ("KL to the reference", "loss/kl/mean", "nats per token", 1),
    ("Groups without a signal", "group/constant_share", "% of groups", 100),
)
NAMED = (  # the same for metrics with a name in them
    (re.compile(r"validation/(.+)/accuracy"), "Validation accuracy: {}", "accuracy (%)", 100),
    (re.compile(r"reward/part/(.+)/mean"), "Part of the reward: {}", "reward", 1),
)
LINES = ("-", "--", ":")
GRID = 200  # points of a band
REACH = 50  # steps on each side of a running mean, at most a twentieth of the run: DeepScaleR's figures average over 100


class Line(NamedTuple):
    """The runs of one setting."""

    name: str
    runs: list[Record]


def curves(folders: Sequence[Path], by: str = "steps") -> list[Exhibit]:
    """What the runs came to, then every metric they have against `by`, one of AXES.

    Runs in folders `NAME/seed_S`, as a sweep makes them, are one line: the mean over the seeds where all have a value, and a band
    from the lowest to the highest. Others are a line each: light as measured, dark as running mean, dotted where a stage begins.
    Raises: CheckpointError for a folder that is no run; RecipeError for more lines than can be told apart.
    """
    lines = _lines(folders)
    metrics = {key for line in lines for run in line.runs for row in run.rows for key in row}
    title = f"{len(folders)} run{'s' * (len(folders) > 1)} of {len(lines)} setting{'s' * (len(lines) > 1)}"
    found = [Exhibit("runs", title, "", COLUMNS, [_row(line) for line in lines])]
    alone, many = any(len(line.runs) == 1 for line in lines), any(len(line.runs) > 1 for line in lines)
    note = "; ".join(["light: as measured, dotted: a stage begins"] * alone + ["bands: lowest to highest seed"] * many)
    for title, key, unit, factor in _panels(metrics):
        rows: list[tuple[Any, ...]] = []
        for line in lines:
            for run in line.runs:
                at, values = _points(run, key, by)
                name = f"{line.name}/{run.name}" if len(line.runs) > 1 else line.name
                rows += [(name, x, v, m) for x, v, m in zip(at, factor * values, _smooth(key, factor * values), strict=True)]
        if rows:
            columns = ("run", AXES[by], title.lower(), "running mean")
            draw = _drawing(lines, key, factor, by)
            found.append(Exhibit(stem("curve", key), title, note, columns, rows, "", (AXES[by], unit), draw, quiet=True))
    return found


def _panels(metrics: Iterable[str]) -> list[tuple[str, str, str, int]]:
    named = [
        (title.format(m[1]), key, unit, f) for key in sorted(metrics) for p, title, unit, f in NAMED if (m := p.fullmatch(key))
    ]
    return [*PANELS, *named]


def _lines(folders: Sequence[Path]) -> list[Line]:
    lines: dict[Path, Line] = {}
    for folder in folders:
        path = folder.resolve()
        at = path.parent if re.fullmatch(r"seed_\d+", path.name) else path
        lines.setdefault(at, Line(at.name, [])).runs.append(read_record(folder))
    if len(lines) > len(LINES) * len(COLOURS):
        raise RecipeError(
            f"{len(lines)} lines cannot be told apart in one figure; give at most {len(LINES) * len(COLOURS)} settings"
        )
    return [line._replace(name=name) for line, name in zip(lines.values(), distinct_names(list(lines)), strict=True)]


COLUMNS = ("setting", "seeds", "last validation accuracy %", "low", "high", "mean tokens", "generated tokens")


def _row(line: Line) -> tuple[Any, ...]:
    """The last of what the runs of a setting measured, with the 95 % interval over seeds."""

    def last(key: str) -> list[float]:
        return [float(v[-1]) for run in line.runs if len(v := run.columns(key)[0])]

    accuracies, lengths, tokens = (last(k) for k in ("validation/accuracy", "validation/mean_tokens", "tokens/generated"))
    interval = mean_interval([[100 * a] for a in accuracies]) if accuracies else None
    bounds = (interval.low, interval.high) if interval and len(accuracies) > 1 else (None, None)
    means = (sum(v) / len(v) if v else None for v in (lengths, tokens))
    return line.name, len(line.runs), interval.mean if interval else None, *bounds, *means


def _points(run: Record, key: str, by: str) -> NDArray[np.float64]:
    """[2, rows]: where a run's rows lie on the axis, and the metric."""
    if by in ("steps", "tokens"):
        return run.columns({"steps": "step", "tokens": "tokens/generated"}[by], key)
    steps, seconds = run.columns("step", "time/step_s")
    steps, seconds = np.append(0, steps), np.append(0, seconds)  # before the first step nothing was spent
    at = np.cumsum(seconds) if by == "seconds" else np.cumsum(seconds) * run.processes / 3600
    own, values = run.columns("step", key)
    return np.array([np.interp(own, steps, at), values])


def _smooth(key: str, values: NDArray[np.float64]) -> list[float]:
    """The running mean of what a step measured; a window is as it was set, a validation is a mean already."""
    reach = 0 if key == "window" or key.startswith("validation/") else min(REACH, len(values) // 20)
    return running_mean(values.tolist(), reach)


def _drawing(lines: Sequence[Line], key: str, factor: int, by: str) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import EngFormatter

        if by == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for place, line in enumerate(lines):
            style: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "ls": LINES[place // len(COLOURS)]}
            each = [points for run in line.runs if (points := _points(run, key, by)).shape[1]]
            name = line.name if len(lines) > 1 else None
            if len(each) == 1:
                (x, y), run = each[0], line.runs[0]
                axes.plot(x, factor * y, color=style["color"], lw=0.8, alpha=0.35)
                axes.plot(x, _smooth(key, factor * y), **style, label=name)
                starts = [step for step, _ in run.stages()[1:]] if len(line.runs) == 1 else []
                for at in np.interp(starts, *_points(run, "step", by)[::-1]) if starts else []:
                    axes.axvline(at, color=style["color"], lw=0.8, ls=":")
            elif each and max(p[0][0] for p in each) < min(p[0][-1] for p in each):
                grid = np.linspace(max(p[0][0] for p in each), min(p[0][-1] for p in each), GRID)
                values = np.array([np.interp(grid, p[0], _smooth(key, factor * p[1])) for p in each])
                axes.plot(grid, values.mean(0), **style, label=name)
                axes.fill_between(grid, values.min(0), values.max(0), color=style["color"], alpha=0.13, lw=0)

    return draw
