"""An exhibit: what an analysis found, as words, a table and a drawing; written as csv, png and part of one page."""

import csv
import html
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longthink import storage
from longthink.errors import printable
from longthink.reports.page import GREY, STYLE, document, figure, rows_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Exhibit", "shown", "stem", "write_exhibits"]

LEGEND = 80  # characters of a legend's line
PNG_SIZE, PNG_DPI = (6.4, 4.0), 160


@dataclass(frozen=True)
class Exhibit:
    """`name` is the stem of its files. `rows` hold numbers as they are; None is an empty cell. `said` is the finding in words.

    `quiet` ones are not printed: their rows are too many, or stand in another exhibit.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    said: str = ""
    labels: tuple[str, str] = ("", "")
    draw: "Callable[[Axes], None] | None" = None
    quiet: bool = False

    def text(self) -> str:
        """The exhibit for a terminal."""
        cells = [list(self.columns), *([shown(v) for v in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in cells]
        return "\n".join(printable(line) for line in [self.title, *lines, *self.said.splitlines()] if line)


def stem(*names: str) -> str:
    """A file's stem of names that may hold anything.

    >>> stem("coverage", "step 5", "narrow/few")
    'coverage_step_5_narrow_few'
    """
    return "_".join("".join(c if c.isalnum() else "_" for c in name) for name in names)


def shown(value: Any) -> str:
    """A cell as people read it: four digits of a fraction, whole numbers with commas, "-" for what is missing.

    >>> [shown(v) for v in (0.123456, 12345.678, 1234, None, "x", 61.25)]
    ['0.1235', '12,346', '1,234', '-', 'x', '61.25']
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def write_exhibits(folder: Path, title: str, facts: Sequence[str], exhibits: Sequence[Exhibit], cases: str = "") -> Path:
    """Write each exhibit's csv and png, and all of them on one page, which is returned; `cases` is HTML for its end."""
    storage.make_folder(folder)
    for exhibit in exhibits:
        storage.replace_file(folder / f"{exhibit.name}.csv", _csv(exhibit).encode("utf-8", "replace"))
        if exhibit.draw:
            storage.replace_file(folder / f"{exhibit.name}.png", _png(exhibit))
    body = []
    for plain, group in itertools.groupby(exhibits, key=lambda e: bool(e.draw) and not e.said):
        sections = "".join(map(_section, group))
        body.append(f'<div class="grid">{sections}</div>' if plain else sections)
    page = folder / "report.html"
    storage.replace_file(page, document(title, facts, "".join(body) + cases).encode("utf-8", "replace"))
    return page


def _csv(exhibit: Exhibit) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([exhibit.columns, *exhibit.rows])
    return out.getvalue()


def _png(exhibit: Exhibit) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    assert exhibit.draw is not None
    with rc_context(STYLE):
        drawing = Figure(figsize=PNG_SIZE, layout="constrained")
        axes = drawing.add_subplot()
        exhibit.draw(axes)
        axes.set(xlabel=exhibit.labels[0], ylabel=exhibit.labels[1])
        drawing.suptitle(exhibit.title, x=0.01, ha="left", fontsize=10)
        axes.set_title(exhibit.note, loc="left", fontsize=7.5, color=GREY)
        if names := axes.get_legend_handles_labels()[1]:
            drawing.legend(loc="outside lower center", fontsize=8, ncols=max(1, min(len(names), LEGEND // max(map(len, names)))))
        out = io.BytesIO()
        drawing.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return out.getvalue()


def _section(exhibit: Exhibit) -> str:
    said = f'<p class="verdict">{html.escape(exhibit.said)}</p>' if exhibit.said else ""
    drawing = figure(exhibit.title, html.escape(exhibit.note), exhibit.labels, exhibit.draw) if exhibit.draw else ""
    columns = [html.escape(c) for c in exhibit.columns]
    numbers = rows_table("numbers", columns, [[shown(v) for v in row] for row in exhibit.rows])
    folded = f"<details><summary>{len(exhibit.rows)} rows, also in {exhibit.name}.csv</summary>{numbers}</details>"
    anchor = re.sub(r"[^a-z0-9]+", "-", exhibit.name.lower())
    title = "" if exhibit.draw and not exhibit.said else f"<h2>{html.escape(exhibit.title)}</h2>"
    return f'<div id="{anchor}">{title}{said}{drawing}{folded if exhibit.draw else numbers}</div>'
