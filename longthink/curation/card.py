"""The data card: counts in and out of every step, what the data set looks like, and the figures."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longthink import storage
from longthink.analysis.exhibit import Exhibit, write_exhibits
from longthink.curation.output import fact
from longthink.curation.recipe import Curation
from longthink.curation.rows import Row, Shards
from longthink.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_card"]

Counts = Mapping[str, int]
SHOWN = 50  # suspect answers that the card lists; the facts of the rows have all


def write_card(recipe: Curation, folder: Path, funnel: Sequence[Mapping[str, Any]], splits: Counts) -> Path:
    """Write `funnel.json`, `card.md` and `figures/`; the card's path."""
    rows = list(_sketches(Shards(folder / "steps" / funnel[-1]["name"])))
    suspects = list(islice(_suspects(folder / "steps", funnel), SHOWN))
    exhibits = _exhibits(funnel, rows)
    write_exhibits(folder / "figures", recipe.name, [f"{count:,} rows of {split}" for split, count in splits.items()], exhibits)
    storage.replace_file(folder / "funnel.json", json.dumps({"name": recipe.name, "steps": list(funnel)}, indent=1).encode())
    text = (
        "\n".join([*_head(recipe, rows, splits), *_table(funnel), *_reasons(funnel), *_listed(suspects), *_figures(exhibits)])
        + "\n"
    )
    path = folder / "card.md"
    storage.replace_file(path, text.encode("utf-8", "replace"))
    return path


def _sketches(shards: Shards) -> Iterator[dict[str, Any]]:
    """What the card shows of each row."""
    for row in (row for row in shards.rows() if row.answer is not None):
        yield {
            "source": row.source,
            "licence": row.licence,
            "characters": len(row.question),
            "pass_rate": _rate(row),
            "responses": [len(r["text"]) for r in fact(row, "responses") or ()],
        }


def _suspects(steps: Path, funnel: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """What audits have found: the row, its answer, the one that samples agree on, and how many do."""
    for node in funnel:
        if node["kind"] == "audit":
            for number in (shards := Shards(steps / node["name"])).numbers():
                found = [(row, row.facts.get(node["name"])) for row in shards.kept(number)]
                for row, facts in [*found, *((r.row, r.detail) for r in shards.rejected(number))]:
                    if facts:
                        yield row.id, str(row.answer), str(facts["suspect"]), f"{facts['votes']} of {facts['samples']}"


def _listed(suspects: Sequence[Sequence[str]]) -> list[str]:
    if not suspects:
        return []
    lines = ["## Suspect answers", "", "Samples agree with each other and not with the answer given. The first of them:", ""]
    lines += ["| row | answer given | samples say | votes |", "|---|---|---|---|"]
    return [*lines, *(f"| {' | '.join(_cell(text) for text in found)} |" for found in suspects), ""]


def _cell(text: str) -> str:
    """A text that cannot break a table."""
    return escape(printable(text)[:80], quote=False).replace("|", "&#124;")


def _rate(row: Row) -> float | None:
    found = fact(row, "pass_rate")
    return None if found is None else float(found)


def _head(recipe: Curation, rows: Sequence[Mapping[str, Any]], splits: Counts) -> list[str]:
    sources = Counter((row["source"], row["licence"]) for row in rows)
    sizes = ", ".join(f"{count:,} rows of {split}" for split, count in splits.items())
    responses = sum(len(row["responses"]) for row in rows)
    sizes += f", with {responses:,} responses to fine-tune on" if responses else ""
    return [
        f"# {recipe.name}",
        "",
        f"{sizes}, made by `longthink curate` with seed {recipe.seed}. Every row that was dropped stands in",
        "`data/rejects.parquet` with the step and its reason; the steps below say how many there are of each.",
        "",
        "| source | licence | rows in the data |",
        "|---|---|---|",
        *(f"| {name} | {licence or 'not stated'} | {count:,} |" for (name, licence), count in sorted(sources.items())),
        "",
    ]


def _table(funnel: Sequence[Mapping[str, Any]]) -> list[str]:
    """The funnel, with the paper's counts where the recipe has any."""
    papers = any(node["paper"] for node in funnel)
    lines = ["## Funnel", "", "| step | kind | takes from | in | kept | dropped |" + " paper kept |" * papers]
    lines += ["|---|---|---|---|---|---|" + "---|" * papers]
    for node in funnel:
        cells = [node["name"], node["kind"], ", ".join(node["from"]), *(f"{node[k]:,}" for k in ("in", "kept", "rejected"))]
        cells += [f"{node['paper']:,}" if node["paper"] else ""] if papers else []
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _reasons(funnel: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [(node["name"], reason, count) for node in funnel for reason, count in node["reasons"].items()]
    if not found:
        return []
    lines = ["## Why rows were dropped", "", "| step | reason | rows |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {reason} | {count:,} |" for name, reason, count in found), ""]


def _figures(exhibits: Sequence[Exhibit]) -> list[str]:
    return ["## Figures", "", *(f"![{e.title}](figures/{e.name}.png)\n" for e in exhibits if e.draw)]


def _exhibits(funnel: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
    steps = [(node["name"], node["kept"], node["rejected"]) for node in funnel]
    sources = sorted(Counter(row["source"] for row in rows).items())
    lengths = [int(row["characters"]) for row in rows]
    responses = [length for row in rows for length in row["responses"]]
    rates = [float(row["pass_rate"]) for row in rows if row["pass_rate"] is not None]
    said = ("step", "kept", "dropped")
    made = [
        Exhibit("funnel", "Rows in and out of each step", "", said, steps, labels=("rows", ""), draw=partial(_bars, steps)),
        Exhibit(
            "sources", "Rows of each source", "", ("source", "rows"), sources, labels=("rows", ""), draw=partial(_bars, sources)
        ),
    ]
    if lengths:
        made.append(_histogram("lengths", "Length of questions", "characters", lengths))
    if responses:
        made.append(_histogram("responses", "Length of responses", "characters", responses))
    if rates:
        made.append(_histogram("difficulty", "Pass rate of the model that was asked", "share of samples that are right", rates))
    return made


def _histogram(name: str, title: str, unit: str, values: Sequence[float]) -> Exhibit:
    import numpy as np

    counts, edges = np.histogram(values, bins=20)
    rows = [(float(low), float(high), int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    return Exhibit(name, title, "", (f"{unit} from", "to", "rows"), rows, labels=(unit, "rows"), draw=partial(_steps, rows))


def _steps(rows: Sequence[tuple[float, float, int]], axes: "Axes") -> None:
    axes.bar([low for low, _, _ in rows], [n for *_, n in rows], [high - low for low, high, _ in rows], align="edge")


def _bars(rows: Sequence[tuple[Any, ...]], axes: "Axes") -> None:
    """Rows kept, and dropped beside them, the first on top."""
    names, places = [str(row[0]) for row in rows], range(len(rows))
    left = [0] * len(rows)
    for column, label in enumerate(("kept", "dropped")[: len(rows[0]) - 1] if rows else (), 1):
        values = [int(row[column]) for row in rows]
        axes.barh(list(places), values, left=left, label=label if len(rows[0]) > 2 else None)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
