"""One offline page about a run: what changed, how it went step by step, what was decided and why."""

import argparse
import html
import re
import tomllib
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.errors import LongthinkError
from longthink.recipe import Recipe, parse_recipe
from longthink.reports.page import cases_of, document, rows_table
from longthink.reports.panels import PARTS, figures
from longthink.reports.record import Record, inner, number, read_record, shown
from longthink.settings import fold
from longthink.telling import action_in_words, evidence_in_words, words

__all__ = ["command", "render_table", "write_report"]

COLUMNS = ("", "accuracy", "95 % interval", "mean tokens", "truncated", "problems", "samples")
MAX_EVENTS = 200  # listed in the table
ODD = (ValueError, KeyError, IndexError, TypeError, AttributeError)  # what an event of another make may raise


def command(args: argparse.Namespace) -> int:
    """`longthink report`."""
    print(write_report(args.run))
    return 0


def write_report(run: Path) -> Path:
    """The path of the `report.html` written into a run folder: one file, no script, nothing to load.

    A missing file or metric leaves its part of the page out. Everything read from the run is escaped.

    Raises: CheckpointError when the folder is no run or one of its files is not JSON.
    """
    path = run / "report.html"
    storage.replace_file(path, _page(read_record(run), cases_of(run)).encode("utf-8", "replace"))
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


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    def row(name: str, pattern: str) -> tuple[str, ...]:
        part = inner(summary, name)
        bounds = [shown(part.get(key), pattern.split()[0], 100) for key in ("low", "high")]
        counts = (shown(part.get("problems"), "{:,.0f}"), shown(part.get("samples"), "{:,.0f}"))
        accuracy = shown(part.get("accuracy", part.get("mean")), pattern, 100)
        tokens, truncated = shown(part.get("mean_tokens"), "{:,.1f}"), shown(part.get("truncated"), "{:.1f} %", 100)
        return name, accuracy, "-" if "-" in bounds else " to ".join(bounds), tokens, truncated, *counts

    rows = [row(name, "{:.1f} %") for name in PARTS if inner(summary, name)]
    return [*rows, row("difference", "{:+.1f} points")] if inner(summary, "difference") else rows


def _verdict(summary: dict[str, Any]) -> str:
    mean, low, high = (number(inner(summary, "difference").get(key)) for key in ("mean", "low", "high"))
    if mean is None:
        return "No comparison of before and after is recorded."
    points = f"{100 * mean:+.1f} points"
    if low is None or high is None:
        return f"Accuracy after minus before: {points}; no interval is recorded, so this may be chance."
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low <= 0 <= high:
        return f"After is not distinguishable from before: {points}, {interval}, which contains 0."
    before, after = (shown(inner(summary, name).get("accuracy"), "{:.1f} %", 100) for name in ("before", "after"))
    levels = "" if "-" in (before, after) else f" from {before} to {after}"
    return f"Accuracy {'rose' if mean > 0 else 'fell'}{levels}: {points} ({interval})."


def _page(run: Record, cases: str) -> str:
    steps, tokens = run.columns("step"), run.columns("tokens/generated")
    facts = [f"{steps.max(initial=0):.0f} steps", f"{tokens.max(initial=0):,.0f} tokens generated in training"]
    facts = facts[: 2 if tokens.size else 1]
    facts += [shown(run.summary.get(k), p) for k, p in (("seconds", "{:,.0f} s"), ("seed", "seed {:.0f}")) if k in run.summary]
    said = _verdict(run.summary) if run.summary else _validated(run)
    verdict = f'<p class="verdict">{html.escape(said).replace(" %", "&nbsp;%")}</p>' if said else ""
    empty = "" if steps.size else "<p>No step is recorded yet: metrics.jsonl has no rows, so there are no training curves.</p>"
    body = f"""{verdict}
{rows_table("numbers", COLUMNS, _summary_rows(run.summary))}{_events(run)}{_stages(run)}
<h2>Figures</h2>{empty}<p class="note">Light points are steps, the line is their running mean, anew for each stage and after a
return to a checkpoint. A solid grey line with a number starts a stage, a dashed one is another event.</p>
<div class="grid">{figures(run)}</div>{cases}
{_recipe(run.recipe)}"""
    return document(f"longthink run {run.name}", facts, body)


def _validated(run: Record) -> str:
    """The verdict of a run without a test: its validations."""
    rows = [r for r in run.rows if number(r.get("validation/accuracy")) is not None]
    if not rows:
        return ""
    alike = [r for r in rows if r.get("validation/key") == rows[-1].get("validation/key")]
    best = max(alike, key=lambda r: float(r["validation/accuracy"]))

    def said(row: dict[str, Any]) -> str:
        interval = " to ".join(shown(row.get(f"validation/{key}"), "{:.1f}", 100) for key in ("low", "high"))
        accuracy = shown(row["validation/accuracy"], "{:.1f} %", 100)
        return accuracy if "-" in interval else f"{accuracy} (95 % interval {interval})"

    text = f"Validation accuracy: {said(rows[0])} at step {rows[0].get('step')}, {said(rows[-1])} at step {rows[-1].get('step')}."
    text += " They are not comparable: they were taken at other windows or on other problems." * (len(alike) < 2 <= len(rows))
    if len(alike) < 3:
        return text
    accuracy = shown(best["validation/accuracy"], "{:.1f} %", 100)
    return f"{text} The best, {accuracy} at step {best.get('step')}, is picked from {len(alike)} and so likely too high."


def _stages(run: Record) -> str:
    """What each stage was: its steps, window, tokens, accuracy, and what it changed."""
    rows = [r for r in run.rows if number(r.get("step")) is not None and "stage" in r]
    changed = _changes(run.recipe)
    actions = [inner(e, "action") for e in run.events]
    origins = {action["stage"]: action["from_step"] for action in actions if {"stage", "from_step"} <= action.keys()}
    cells = []
    for stage in dict.fromkeys(r["stage"] for r in rows):
        of = [r for r in rows if r["stage"] == stage]
        windows = [w for r in of if (w := number(r.get("window"))) is not None]
        checked = [a for r in of if (a := number(r.get("validation/accuracy"))) is not None]
        tokens = [t for r in of if (t := number(r.get("tokens/step"))) is not None]
        lengths = [n for r in of if (n := number(r.get("length/mean"))) is not None]
        cells.append(
            (
                str(stage),
                f"{of[0]['step']} to {of[-1]['step']}",
                str(origins.get(stage, "-")),
                " to ".join(f"{w:,.0f}" for w in dict.fromkeys([min(windows), max(windows)])) if windows else "-",
                f"{sum(tokens):,.0f}" if tokens else "-",
                f"{100 * checked[0]:.1f}, {100 * max(checked):.1f}, {100 * checked[-1]:.1f} %" if checked else "-",
                f"{lengths[0]:.0f} to {lengths[-1]:.0f}" if lengths else "-",
                changed.get(stage, "-"),
            )
        )
    accuracy = "validation accuracy: first, best, last"
    columns = ("stage", "steps", "from step", "window", "tokens generated", accuracy, "response tokens", "begins with")
    return f"<h2>Stages</h2>{rows_table('events', columns, cells)}" if len(cells) > 1 else ""


def _changes(recipe: str) -> dict[int, str]:
    """What each stage of a recipe changes, in words; nothing for a recipe that cannot be read."""
    try:
        stages = tomllib.loads(recipe).get("stage", [])
        empty = ("name", "max_steps", "until", "begin_from", "reset")
        tables = [{k: v for k, v in stage.items() if v and k not in empty} for stage in stages]
        resets = [stage.get("reset", "nothing") for stage in stages]
    except (tomllib.TOMLDecodeError, AttributeError, TypeError):
        return {}
    reset = {"hard": "hard reset", "reference": "new reference"}
    return {
        i: ", ".join(filter(None, [reset.get(r, ""), *_dotted(t)])) or "-"
        for i, (t, r) in enumerate(zip(tables, resets, strict=True))
    }


def _dotted(table: dict[str, Any], at: str = "") -> list[str]:
    """The keys of nested tables with their values.

    >>> _dotted({"rollout": {"window": 128}, "domain": {"few": {"weight": 2.0}}})
    ['rollout.window = 128', 'domain.few.weight = 2']
    """
    found = []
    for key, value in table.items():
        found += _dotted(value, f"{at}{key}.") if isinstance(value, dict) else [f"{at}{key} = {words(value)}"]
    return found


def _before(run: Record) -> list[Recipe | None]:
    """What was in force before each event; None where the run's recipe or events cannot be read."""
    found: list[Recipe | None] = []
    try:
        recipe = parse_recipe(tomllib.loads(run.recipe), "recipe.toml")
        for number, event in enumerate(run.events[:MAX_EVENTS]):
            found.append(fold(recipe, run.events[:number], [{"step": event["step"]}]).recipe)
    except (LongthinkError, *ODD):
        pass
    return found + [None] * (len(run.events) - len(found))


def _events(run: Record) -> str:
    columns = ["step", "by", "what was done", "why"]
    columns += ["did it help?"] if run.twins else []
    cells = [_event(e, run.twins, before) for e, before in zip(run.events[:MAX_EVENTS], _before(run), strict=False)]
    table = rows_table("events", columns, cells)
    more = f'<p class="note">and {len(run.events) - MAX_EVENTS} more in events.jsonl</p>' if len(run.events) > MAX_EVENTS else ""
    return f"<h2>Decisions and their evidence</h2>{table}{more}" if run.events else ""


def _event(event: dict[str, Any], twins: dict[int, dict[str, Any]], before: Recipe | None) -> list[str]:
    """A decision's cells; where a twin was trained, accuracy after it minus that without it."""
    action, evidence = inner(event, "action"), inner(event, "evidence")
    inside = [key.partition(".")[0] for key in evidence if re.fullmatch(r"[a-z_]+\.\d+", key)]  # of `any` and `all`
    by = " and ".join(inside) or words(event.get("rule", ""))
    try:
        done, why = action_in_words(action, before), evidence_in_words(evidence)
    except ODD:  # not as this version writes it: as it is, then
        done, why = words(action), words(evidence)
    said = [words(event.get("step", "")), by, done, why]
    if twins:
        twin = twins.get(int(number(event.get("step")) or 0), {})
        if "failed" in twin:
            return [*said, "yes: without it the run fails"]
        mean, low, high = (shown(twin.get(key), "{:+.1f}", 100) for key in ("mean", "low", "high"))
        said.append("-" if not twin else f"{_helped(twin)}: {mean} points ({low} to {high})")
    return said


def _helped(twin: dict[str, Any]) -> str:
    low, high = number(twin.get("low")) or 0.0, number(twin.get("high")) or 0.0
    return "yes" if low > 0 else "no, it hurt" if high < 0 else "not distinguishable"


def _recipe(text: str) -> str:
    return f"<h2>Recipe</h2><details><summary>recipe.toml</summary><pre>{html.escape(text)}</pre></details>" if text else ""
