"""The page of a comparison: verdicts, the frontier, and the problems won and lost with links to their responses."""

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from longthink import storage
from longthink.analysis.landscape import frontier
from longthink.errors import TaskError
from longthink.evaluation.compare import Comparison, Pair
from longthink.evaluation.results import Evaluated
from longthink.reports.page import document, figure, rows_table
from longthink.view import write_view

__all__ = ["write_verdict"]

LISTED = 200  # problems of a list


def write_verdict(folder: Path, made: Comparison, found: Sequence[Evaluated]) -> Path:
    """Write compare.html and the view.html it links to into a folder; the path of the first."""
    storage.make_folder(folder)
    places = [(p.benchmark, i) for p in made.pairs for i in (*p.won[:LISTED], *p.lost[:LISTED])]
    keys = {f"{name}:{made.problems[name][i]}" for name, i in places}
    said = ""
    try:
        write_view(list(dict.fromkeys(e.folder for e in found)), folder / "view.html", keys)
    except TaskError as e:  # none was won or lost, or they are too long for a page
        said = str(e) if keys else ""
    warned = "".join(f'<p class="verdict">{html.escape(text)}</p>' for text in [*made.warnings, said] if text)
    body = warned + "".join(_benchmark(made, name, found) for name in made.benchmarks)
    path = folder / "compare.html"
    corrected = f"p corrected for {len(made.pairs)} comparisons (Holm), intervals not"
    facts = [f"against {found[0].name}", *([corrected] if len(made.pairs) > 1 else [])]
    page = document("longthink compare: " + ", ".join(e.name for e in found), facts, body)
    storage.replace_file(path, page.encode("utf-8", "replace"))
    return path


def _benchmark(made: Comparison, name: str, found: Sequence[Evaluated]) -> str:
    pairs = [pair for pair in made.pairs if pair.benchmark == name]
    columns = ("", "verdict", "accuracy minus the first", "95 %", "p", "tokens minus the first", "95 %", "won", "lost")
    first = made.points[name][0]
    a, n = first.accuracy, first.tokens.mean
    start = f"{first.name}: {100 * a.mean:.1f} % ({100 * a.low:.1f} to {100 * a.high:.1f}) with {n:,.0f} tokens"
    said = f"{start}, on {len(first.scores)} problems."
    if made.efficiency:
        said += " ΔAcc/CR over all benchmarks: " + ", ".join(f"{k} {v:.2f}" for k, v in made.efficiency.items()) + "."
    rows = []
    for pair in pairs:
        d, t = pair.difference, pair.tokens
        numbers = (f"{100 * d.mean:+.1f} points", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", f"{pair.p:.2g}")
        tokens = (f"{t.mean:+,.0f}", f"{t.low:+,.0f} to {t.high:+,.0f}")
        rows.append((pair.name, pair.verdict, *numbers, *tokens, str(len(pair.won)), str(len(pair.lost))))
    drawn = frontier(made, name)
    assert drawn.draw is not None
    picture = figure(drawn.title, drawn.note, drawn.labels, drawn.draw, drawn.said)
    lists = "".join(_problems(pair, made.problems[name], found) for pair in pairs)
    return f"<h2>{html.escape(name)}</h2><p>{html.escape(said)}</p>{rows_table('numbers', columns, rows)}{picture}{lists}"


def _problems(pair: Pair, problems: Sequence[str], found: Sequence[Evaluated]) -> str:
    parts = []
    for word, places in (("won", pair.won), ("lost", pair.lost)):
        links = [
            f'<a href="view.html#{quote(f"{pair.benchmark}:{problems[i]}", safe="")}">{html.escape(problems[i])}</a>'
            for i in places[:LISTED]
        ]
        more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
        if links:
            summary = f"{html.escape(pair.name)}: {len(places)} problems {word} against {html.escape(found[0].name)}"
            parts.append(f"<details><summary>{summary}</summary><p>{', '.join(links)}{more}</p></details>")
    return "".join(parts)
