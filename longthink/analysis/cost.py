"""What a run cost, beside what published ones say they did."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longthink.analysis.exhibit import Exhibit
from longthink.errors import TaskError
from longthink.evaluation.results import Evaluated
from longthink.reports.record import Record, distinct_names, number, read_record

__all__ = ["cost", "hours_of", "published"]

PUBLISHED = Path(__file__).with_name("published.toml")


def published() -> dict[str, Any]:
    """The papers' numbers: `cost` and `score` rows, each with where it is said."""
    return tomllib.loads(PUBLISHED.read_text())


def cost(runs: Sequence[Path], *, step: int | None = None, price: float = 0.0, beside: bool = True) -> Exhibit:
    """Prompts, responses, generated tokens, seconds, hours of processes and money of runs up to a step (default: the last).

    What was sampled in validations is counted in seconds, not in tokens. `price` is money for one hour of a process (a GPU,
    where it drives one). Published costs follow, contradictory ones side by side; a checkpoint's cost is what had been consumed
    when it was taken, which for Open-RS3 is a tenth of the run's. Raises: TaskError for a run without steps.
    """
    rows: list[tuple[Any, ...]] = []
    for folder, name in zip(runs, distinct_names(runs), strict=True):
        record = read_record(folder)
        rows.append((name, "this run", *_spent(record, folder, step, price)))
    for made in published()["cost"] if beside else ():
        responses = made.get("responses") or (made["problems"] * made["samples"] if "samples" in made else None)
        spent = (made.get("problems"), responses, None, None, made.get("gpu_hours"), made.get("dollars"))
        rows.append((made["name"], f"published: {made['said_by']}", *spent))
    columns = ("run", "said by", "prompts", "responses", "generated tokens", "seconds", "process or GPU hours", "money")
    note = "Published prompts and responses are those of one pass over the data."
    return Exhibit("cost", "What it cost", "", columns, rows, note if beside else "")


def hours_of(evaluated: Evaluated) -> float | None:
    """The hours of processes that an evaluated checkpoint's run had spent by then; None for a model that is of no run here."""
    model = str(evaluated.facts.get("model"))
    found = re.fullmatch(r"(.+)(?:@|/checkpoints/step_0*)(\d+)/?", model)
    if not found or not (Path(found[1]) / "metrics.jsonl").is_file():
        return None
    run, step = Path(found[1]), int(found[2])
    return float(_spent(read_record(run), run, step, 0.0)[4]) if step else 0.0


def _spent(record: Record, folder: Path, step: int | None, price: float) -> tuple[Any, ...]:
    rows = [r for r in record.rows if number(r.get("step")) and (step is None or r["step"] <= step)]
    if not rows:
        raise TaskError(
            f"{folder}: no step is recorded{'' if step is None else f' up to step {step}'}; there is nothing to count"
        )
    seconds = sum(number(r.get(f"time/{part}_s")) or 0.0 for r in rows for part in ("step", "validation"))
    prompts = sum(number(r.get("group/count")) or 0.0 for r in rows)
    tokens = [(number(r.get("tokens/step")) or 0.0, number(r.get("length/mean")) or 1.0) for r in rows]
    responses = sum(round(total / mean) for total, mean in tokens)
    hours = seconds * record.processes / 3600.0
    return int(prompts), responses, sum(total for total, _ in tokens), seconds, hours, hours * price if price else None
