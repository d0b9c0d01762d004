"""`longthink sweep`: a recipe over a grid of settings and several seeds, one run after another, resumable."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from longthink import storage
from longthink.errors import RecipeError
from longthink.recipe import load_recipe
from longthink.run import Run
from longthink.shape import pin_files
from longthink.stats import mean_interval
from longthink.train import train

__all__ = ["cells", "sweep"]


class Cell(NamedTuple):
    """One combination of the grid: a folder's name and the settings that make it."""

    name: str
    sets: tuple[str, ...]


def cells(grid: Sequence[str]) -> list[Cell]:
    """The combinations of `key=value,value` terms, the last term changing fastest.

    >>> [c.name for c in cells(["loss.kl=0,0.01", "learner.lr=1e-6"])]
    ['loss.kl=0 learner.lr=1e-6', 'loss.kl=0.01 learner.lr=1e-6']
    """
    terms = []
    for text in grid:
        key, equals, values = text.partition("=")
        listed = [v.strip() for v in values.split(",")]
        if not equals or not key.strip() or not all(listed):
            raise RecipeError(f"--grid {text}: expected key=value,value, for example --grid loss.kl=0,0.01")
        terms.append([f"{key.strip()}={value}" for value in listed])
    found = [Cell(" ".join(sets), sets) for sets in itertools.product(*terms)]
    if len({c.name for c in found}) < len(found):
        raise RecipeError(f"--grid {' '.join(grid)}: a value is there twice")
    return found


def sweep(path: Path, grid: Sequence[str], sets: Sequence[str], seeds: int, out: Path) -> int:
    """Run every cell with seeds 0 to `seeds` - 1 in `out`, skipping what is done and going on with what was begun.

    Prints a row a cell and writes it into sweep.json: the last validation accuracy and mean tokens, averaged over seeds, with
    a 95 % t-interval over them. Returns 130 when a run was interrupted. Raises: RecipeError before any work.
    """
    if seeds < 1:
        raise RecipeError(f"--seeds is {seeds}, expected at least 1")
    planned = [(cell, [load_recipe(path, [*sets, *cell.sets, f"seed={seed}"]) for seed in range(seeds)]) for cell in cells(grid)]
    rows: list[dict[str, Any]] = []
    for cell, recipes in planned:
        ends = []
        for seed, recipe in enumerate(recipes):
            folder = out / cell.name.replace("/", "_").replace(" ", "_") / f"seed_{seed}"
            begun = (folder / "recipe.toml").exists()
            run = Run.open(folder, pin_files(recipe)) if begun else None
            if run is not None:
                run.rows = storage.read_lines(folder / "metrics.jsonl")
                run.events = storage.read_lines(folder / "events.jsonl")
                run.step = int(run.rows[-1]["step"]) if run.rows else 0
            if run is None or not run.complete:
                run = train(run.recipe if run is not None else recipe, folder, resume=begun)
            if not run.complete:
                print(f"interrupted in {folder}; the same command goes on with it")
                return 130
            ends.append(run)
        rows.append(_summary(cell, ends))
        print(_line(rows[-1]), flush=True)
        storage.replace_file(out / "sweep.json", json.dumps(rows, indent=1).encode())
    return 0


def _summary(cell: Cell, ends: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "settings": list(cell.sets),
        "seeds": len(ends),
        "tokens_generated": [r.generated_tokens for r in ends],
    }
    for name, key in (("accuracy", "validation/accuracy"), ("tokens", "validation/mean_tokens")):
        last = list(_last(ends, key))
        if last:
            interval = mean_interval([[value] for value in last])
            bounds = {"low": interval.low, "high": interval.high} if len(last) > 1 else {}  # one seed has no interval
            found[name] = {"mean": interval.mean, **bounds, "each": last}
    return found


def _last(ends: Sequence[Run], key: str) -> Iterator[float]:
    """The last value of a metric in each run that has one."""
    for run in ends:
        values = [float(r[key]) for r in run.rows if key in r]
        yield from values[-1:]


def _line(row: dict[str, Any]) -> str:
    parts = [" ".join(row["settings"]) or "the recipe as it is", f"{row['seeds']} seed(s)"]
    for name, form in (("accuracy", "{:.3f}"), ("tokens", "{:.0f}")):
        if name in row:
            mean, *bounds = (form.format(row[name][k]) for k in ("mean", "low", "high") if k in row[name])
            parts.append(f"{name} {mean}" + (f" [{', '.join(bounds)}]" if bounds else ""))
    return "  ".join(parts)
