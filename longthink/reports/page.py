"""The page itself: its style, its tables, and drawings as inline SVG; one offline file, no script, nothing to load."""

import html
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "COLOURS",
    "GREEN",
    "GREY",
    "HATCHES",
    "MARKERS",
    "ORANGE",
    "PURPLE",
    "STYLE",
    "cases_of",
    "document",
    "figure",
    "name_points",
    "rows_table",
]

# apart for colour-blind readers too
BLUE = "#0072b2"
GREEN = "#00805c"
ORANGE = "#c65100"
PURPLE = "#8a5aa8"
GREY = "#767676"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # beside the colour, for print
HATCHES = ("", "//", "..", "xx", "--")
TEXT = 24  # characters of a cell that is no number any more, and wraps
LEGEND = 70  # characters that fit above a drawing, a mark counting as five
WIDTH, HEIGHT = 4.6, 2.6  # inches of a figure: its 9-point text stays readable at the width of a phone
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
.numbers tr>:first-child,.numbers td.text{text-align:left;font-weight:600}
.numbers td.text{white-space:normal;overflow-wrap:anywhere;font-weight:400}
.events :is(td,th){padding-block:.28rem}.events td{overflow-wrap:anywhere}.events td:nth-child(-n+3){white-space:nowrap}
.grid{margin-top:1rem;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1rem}
figure{margin:.7rem 0;max-width:44rem;padding:.8rem .8rem .4rem;background:#fff}.grid figure{margin:0}
figure,figcaption b{color:#1c2430}
figcaption{font-size:.85rem;color:#5b6675}figcaption b{font-size:1rem;margin-right:.4em}
svg{display:block;width:100%;height:auto}figure p{font-size:.85rem;margin:.3rem 0 .5rem}
details{padding:.6rem 1rem;margin:.5rem 0}summary{cursor:pointer;font-weight:600}pre{overflow-x:auto;font-size:.85rem}
@media(max-width:40rem){thead{display:none}table :is(tr,td){display:block}tr{padding:.5rem 0}td{padding:.1rem .8rem}
.numbers td:nth-child(n+2){display:inline-block;padding-right:0}.numbers td:empty{display:none}
td::before{content:attr(data-label) " ";color:var(--soft);font-size:.85em;font-weight:400}}
@media print{:root{--ink:#000;--soft:#444;--page:#fff;--card:#fff;--line:#ccc}body{font-size:10pt;padding:0}
.grid{grid-template-columns:1fr 1fr}th,td{padding:.3rem .5rem;font-size:.78rem}}
"""


def document(title: str, facts: Sequence[str], body: str) -> str:
    """A whole page; title and facts are plain text, the body is HTML."""
    title, line = html.escape(title), " · ".join(html.escape(fact) for fact in facts)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{CSS}</style></head><body>
<h1>{title}</h1><p class="note">{line}</p>{body}
</body></html>
"""


def figure(title: str, note: str, labels: tuple[str, str], draw: Callable[["Axes"], None], after: str = "") -> str:
    """A drawing as inline SVG, without what the page already gives: namespaces, names of groups, a font."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.155, 0.175, 0.825, 0.705))
        draw(axes)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        handles, names = axes.get_legend_handles_labels()
        if sum(map(len, names)) + 5 * len(names) > LEGEND:
            note += f"<br>{_legend(handles, names)}"
        elif names:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.06, 0.98), ncols=5, handlelength=1.4, columnspacing=1.2)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = out.getvalue().partition("<svg")[2].partition(">")[2]
    drawing = re.sub(r'<g id="[^"]*"', "<g", re.sub(r" font-family: [^;]*;", "", drawing))
    title = html.escape(title)
    start = f'<svg viewBox="0 0 {72 * WIDTH:g} {72 * HEIGHT:g}" role="img" aria-label="{title}">'
    below = f"<p>{html.escape(after)}</p>" if after else ""
    return f"<figure><figcaption><b>{title}</b>{note}</figcaption>{start}{drawing}{below}</figure>"


def name_points(axes: "Axes", points: Sequence[tuple[str, float, float]], *, size: float = 7, colour: str = "black") -> None:
    """Write names beside points where they hide neither each other nor a point; a name without room is left out.

    Call it when all is drawn: places are judged by the limits of the axes.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.autoscale_view()
    places = [axes.transData.transform((x, y)) * 72 / figure.dpi for _, x, y in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for (name, x, y), (left, low) in zip(points, places, strict=True):
        wide, tall = 0.62 * size * len(name), 1.2 * size
        for right, up in ((5, 3), (5, -3 - size), (-5 - wide, 3), (-5 - wide, -3 - size), (-wide / 2, 7), (-wide / 2, -7 - size)):
            box = (left + right, low + up, left + right + wide, low + up + tall)
            inside = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            fits = 72 * inside.x0 <= box[0] and box[2] <= 72 * inside.x1 + 4
            if fits and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                taken.append(box)
                offset = {"xytext": (right, up), "textcoords": "offset points"}
                axes.annotate(name, (x, y), **offset, fontsize=size, color=colour)  # type: ignore[arg-type]
                break


def _legend(handles: Sequence[Any], names: Sequence[str]) -> str:
    """Names behind a stroke of their line, for more than a drawing has room for."""
    from matplotlib.colors import to_hex

    found = []
    for handle, name in zip(handles, names, strict=True):
        mark = handle[0] if isinstance(handle, tuple) else handle
        colour = mark.get_color() if hasattr(mark, "get_color") else mark.get_facecolor()
        stroke = {"--": "dashed", ":": "dotted"}.get(str(mark.get_linestyle()), "solid")
        line = f"border-top:3px {stroke} {to_hex(colour)}"
        found.append(f'<span style="{line};margin-right:1em;display:inline-block">{html.escape(name)}</span>')
    return " ".join(found)


def cases_of(folder: Path) -> str:
    """The responses kept in `longthink view`, from the folder's cases.json; nothing where there is none or it is no such file."""
    try:
        cases = json.loads((folder / "cases.json").read_bytes())
        parts = []
        for c in cases:
            facts = html.escape(f"{c['problem']}: {c['source']}, score {c['score']}, {c['tokens']} tokens")
            parts.append(f"<details><summary>{facts}</summary><pre>{html.escape(str(c['text']))}</pre></details>")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"<h2>Kept responses</h2>{''.join(parts)}" if parts else ""


def _cell(column: str, value: str) -> str:
    kind = ' class="text"' if len(value) > TEXT else ""
    return f'<td{kind} data-label="{column}">{"" if value == "-" else html.escape(value)}</td>'


def rows_table(kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a kind the style knows; a cell of "-" is empty. All text is escaped."""
    if not rows:
        return ""
    head = "".join(f"<th>{c}</th>" for c in columns)
    body = "".join("<tr>" + "".join(map(_cell, columns, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
