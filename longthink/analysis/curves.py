"""Training curves of runs as exhibits: one a metric, with stages marked, for csv and picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longthink.analysis.exhibit import Exhibit
from longthink.reports.overlay import PANELS
from longthink.reports.page import COLOURS, GREY
from longthink.reports.record import Record, read_record
from longthink.stats import running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves"]

REACH = 50  # steps on each side of a running mean, at most a tenth of the run: DeepScaleR's figures average over 100


def curves(runs: Sequence[Path]) -> list[Exhibit]:
    """Reward, validation, length, clip ratio, window, entropy and KL against steps: light as measured, dark as running mean."""
    records = [read_record(run) for run in runs]
    found = []
    for title, key, unit, factor in PANELS:
        rows: list[tuple[Any, ...]] = []
        for record in records:
            steps, tokens, values = record.columns("step", "tokens/generated", key)
            rows += [
                (record.name, int(s), int(t), factor * v, factor * m)
                for s, t, v, m in zip(steps, tokens, values, _smooth(values.tolist()), strict=True)
            ]
        if rows:
            columns = ("run", "step", "generated tokens", title.lower(), "running mean")
            stem = key.replace("/", "_")
            note = "light: as measured; vertical lines: stages"
            found.append(Exhibit(f"curve_{stem}", title, note, columns, rows, "", ("step", unit), _drawing(rows, records)))
    return found


def _smooth(values: list[float]) -> list[float]:
    return running_mean(values, max(0, min(REACH, len(values) // 20))) if values else []


def _drawing(rows: Sequence[tuple[Any, ...]], records: Sequence[Record]) -> Any:
    def draw(axes: "Axes") -> None:
        for number, record in enumerate(records):
            own = [r for r in rows if r[0] == record.name]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([r[1] for r in own], [r[3] for r in own], color=colour, lw=0.8, alpha=0.35)
            axes.plot([r[1] for r in own], [r[4] for r in own], color=colour, label=record.name if len(records) > 1 else None)
            for step, _ in record.stages()[1:]:
                axes.axvline(step - 0.5, color=colour if len(records) > 1 else GREY, lw=0.8, ls=":")

    return draw
