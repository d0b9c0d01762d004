"""`longthink sweep`: the arms of a recipe's study, or a grid of settings, with several seeds; one after another, resumable."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import storage
from longthink.collect import Grading
from longthink.data import load_domains
from longthink.errors import LearnerError, RecipeError
from longthink.fit import refuse_misfit
from longthink.folder import ModelFolder
from longthink.machine import resolve
from longthink.part import load_part
from longthink.recipe import Recipe, load_recipe, load_study
from longthink.rewards.base import Reward
from longthink.run import Run
from longthink.sft import by_epochs
from longthink.shape import Parts, pin_files
from longthink.stages import Triggers
from longthink.stats import mean_interval
from longthink.study import StudySettings
from longthink.telling import action_in_words
from longthink.train import Training
from longthink.types import Sampling
from longthink.validation import Source

__all__ = ["Cell", "area", "grid_cells", "study_cells", "sweep", "table"]

SHOWN = (("accuracy", "{:.1f}", 100), ("mean_tokens", "{:.0f}", 1), ("area", "{:.1f}", 100))  # of a row on the terminal


class Cell(NamedTuple):
    """One arm or one combination of a grid: its name, the arm's, and the settings that make it."""

    name: str
    arm: str = ""
    sets: tuple[str, ...] = ()


def grid_cells(grid: Sequence[str]) -> list[Cell]:
    """The combinations of `key=value,value` terms, the last term changing fastest.

    >>> [c.name for c in grid_cells(["loss.kl=0,0.01", "learner.lr=1e-6"])]
    ['loss.kl=0 learner.lr=1e-6', 'loss.kl=0.01 learner.lr=1e-6']
    """
    terms = []
    for text in grid:
        key, equals, values = text.partition("=")
        listed = [v.strip() for v in values.split(",")]
        if not equals or not key.strip() or not all(listed):
            raise RecipeError(f"--grid {text}: expected key=value,value, for example --grid loss.kl=0,0.01")
        terms.append([f"{key.strip()}={value}" for value in listed])
    if len({values[0].partition("=")[0] for values in terms}) < len(terms):
        raise RecipeError(f"--grid {' '.join(grid)}: a key is there twice; list its values after one")
    found = [Cell(" ".join(sets) or "as it is", "", sets) for sets in itertools.product(*terms)]
    if len({c.name for c in found}) < len(found):
        raise RecipeError(f"--grid {' '.join(grid)}: a value is there twice")
    return found


def study_cells(study: StudySettings) -> list[Cell]:
    """The arms of a study, in its order."""
    return [Cell(name, name) for name in study.arms]


def sweep(
    path: Path,
    cells: Sequence[Cell],
    seeds: int,
    sets: Sequence[str],
    out: Path,
    results: Path,
    training: type[Training] = Training,
) -> int:
    """Run every cell with seeds 0 to `seeds` - 1 in `out`, skipping what `results` holds and going on with what was begun.

    The file holds under "parts" one entry a run, "CELL/seed_S", written when the run has ended (`facts`); keys of others stay.
    `training` may be a subclass that does something more.
    Prints a row a cell. A run that cannot learn is kept as failed. Returns 130 when a run was interrupted, 1 when one failed.
    Raises: LongthinkError before any work.
    """
    if seeds < 1:
        raise RecipeError(f"--seeds is {seeds}, expected at least 1")
    study = load_study(path)
    planned = [(cell, [_recipe(path, cell, sets, seed) for seed in range(seeds)]) for cell in cells]
    window = study.window or load_recipe(path, sets).last_window if study else 0
    for _, recipes in planned:
        _refuse(recipes[0], study, window)
    if len({_folder(cell) for cell in cells}) < len(cells):
        raise RecipeError(
            "two settings of the sweep would share a folder; give them values that differ in more than blanks and slashes"
        )
    kept = _kept(results)
    parts: dict[str, Any] = kept.setdefault("parts", {})
    failed = 0
    for seed in range(seeds):  # each with every cell before the next: what is interrupted has whole pairs
        for cell, recipes in planned:
            name, digest = f"{cell.name}/seed_{seed}", _digest(recipes[seed], study, window)
            if name in parts and parts[name].get("recipe", digest) != digest:
                raise RecipeError(f"{results} holds {name} of other settings; choose another --out, or take that entry out of it")
            if name not in parts:
                folder = out / _folder(cell) / f"seed_{seed}"
                try:
                    found = _run(recipes[seed], folder, study, window, training)
                except LearnerError as why:
                    found = {"failed": str(why)}
                if found is None:
                    print(f"interrupted in {folder}; the same command goes on with it")
                    return 130
                failed += "failed" in found
                parts[name] = {"recipe": digest} | found
                storage.make_folder(results.parent)
                storage.replace_file(results, _text(kept).encode())
            if seed == seeds - 1:
                print(_line(cell.name, table(parts, cell.name)), flush=True)
    return 1 if failed else 0


def _recipe(path: Path, cell: Cell, sets: Sequence[str], seed: int) -> Recipe:
    return by_epochs(pin_files(load_recipe(path, [*sets, *cell.sets, f"seed={seed}"], cell.arm)))


def _folder(cell: Cell) -> str:
    return cell.name.replace("/", "_").replace(" ", "_")[:200]


def _refuse(recipe: Recipe, study: StudySettings | None, window: int) -> None:
    """Raises: LongthinkError for what would stop a run of a cell, or its test at the end."""
    tasks, _ = load_domains(recipe)
    for made in recipe.staged:
        Parts(made.shape)
    Triggers(recipe)
    for task in tasks.values() if study else ():
        task.size("test")
    if study and study.reward:
        load_part(Reward, study.reward, "study.reward")
    if Path(recipe.model.path).exists():
        config = ModelFolder(recipe.model.path).config
        refuse_misfit(recipe, config)
        if window >= config.max_positions:
            raise RecipeError(
                f"study.window is {window} tokens, {recipe.model.path} has {config.max_positions} positions for all"
            )


def _kept(results: Path) -> dict[str, Any]:
    """What a results file holds. Raises: RecipeError for one that is not ours."""
    try:
        found = json.loads(results.read_text()) if results.exists() else {}
    except ValueError as error:
        raise RecipeError(f"{results}: not JSON ({error}); put it back, or remove it") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{results}: expected a table with parts; remove it, or choose another --out")
    return found


def _digest(recipe: Recipe, study: StudySettings | None, window: int) -> str:
    """Sixteen digits that change with what a run and its test are; defaults are left out, so new options change nothing."""
    test = [study.problems, study.samples, window, study.reward] if study else []
    text = json.dumps([recipe.model_dump(mode="json", exclude_defaults=True), test], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run(recipe: Recipe, folder: Path, study: StudySettings | None, window: int, kind: type[Training]) -> dict[str, Any] | None:
    """Begin or go on with a run and test its last weights; None when it was interrupted."""
    begun = (folder / "recipe.toml").exists()
    recipe = Run.open(folder, recipe).recipe if begun else resolve(recipe)
    with kind(recipe, folder, resume=begun, parent=None) as training:
        training.loop()
        if not training.run.complete:
            return None
        found = facts(training.run)
        if study is None:
            return found
        training.progress.phase("test")
        source = training.validator.own
        if study.reward:
            reward = load_part(Reward, study.reward, "study.reward")
            source = Source(source.tasks, Grading(dict.fromkeys(source.tasks, reward)))
        tested = training.validator.evaluate("test", study.problems, study.samples, window, Sampling(1.0), source=source)
    summary = tested.summary()
    lengths = {right: [r.num_tokens for r, v in tested.scored if (v.score == 1.0) is right] for right in (True, False)}
    means = {right: sum(values) / len(values) if values else None for right, values in lengths.items()}
    test = {key: summary[key] for key in ("accuracy", "mean_tokens", "truncated")}
    counts = [round(sum(row)) for row in tested.scores]
    return found | test | {"right_tokens": means[True], "wrong_tokens": means[False], "right": counts}


def _text(kept: Mapping[str, Any]) -> str:
    """The results as JSON, one line a run: small, and readable in a diff."""
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in kept.items() if key != "parts")
    runs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(part)}" for name, part in kept["parts"].items())
    return f'{{\n{head} "parts": {{\n{runs}\n }}\n}}\n'


def facts(run: Run) -> dict[str, Any]:
    """What is kept of a run: its last validation, its curve, cost, entropy, and what was decided."""
    last: dict[str, Any] = next((r for r in reversed(run.rows) if "validation/accuracy" in r), {})
    entropies = [float(r["policy/entropy/mean"]) for r in run.rows if "policy/entropy/mean" in r]
    names = {"accuracy": "accuracy", "mean_tokens": "mean_tokens", "truncated_share": "truncated"}
    versions = json.loads((run.folder / "run.json").read_text())["versions"]
    return {
        "commit": versions["commit"][:7],
        "cpu": versions["cpu"],
        "steps": run.step,
        "generated_tokens": run.generated_tokens,
        "seconds": round(sum(float(r.get("time/step_s", 0.0)) for r in run.rows), 1),
        **{ours: last[f"validation/{key}"] for key, ours in names.items() if last},
        "entropy": {"first": _mean(entropies[:5]), "last": _mean(entropies[-5:])},
        "curve": _curve(run),
        "events": [[e["step"], e["rule"], action_in_words(e["action"])] for e in run.events],
    }


def _curve(run: Run) -> list[list[float]]:
    """[generated tokens, accuracy, mean tokens] of each validation."""
    keys = ("tokens/generated", "validation/accuracy", "validation/mean_tokens")
    return [[round(float(r[key]), 4) for key in keys] for r in run.rows if "validation/accuracy" in r]


def area(curve: Sequence[Sequence[float]], width: float = 0.0) -> float | None:
    """Mean accuracy over generated tokens, from the first validation to `width` tokens, or the last: the area under the curve.

    Straight lines between validations; a curve that ends before goes on level. None for a curve without width.

    >>> area([[0, 0.25, 80.0], [100, 0.5, 80.0], [300, 0.75, 80.0]]), area([[0, 0.25, 80.0], [100, 0.5, 80.0]], 50)
    (0.5416666666666666, 0.3125)
    """
    width = width or curve[-1][0] if curve else 0.0
    if not curve or width <= curve[0][0]:
        return None
    xs, ys = [float(p[0]) for p in curve], [float(p[1]) for p in curve]
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if x < width] + [(width, float(np.interp(width, xs, ys)))]
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(inside)) / (width - xs[0])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def table(parts: Mapping[str, Mapping[str, Any]], cell: str) -> dict[str, dict[str, Any]]:
    """Each number of a cell's runs: its values by seed, their mean, and from two seeds on a 95 % t-interval over them."""
    runs = [{**run, "area": area(run.get("curve", []))} for name, run in parts.items() if name.rpartition("/seed_")[0] == cell]
    found: dict[str, dict[str, Any]] = {}
    for key in ("accuracy", "mean_tokens", "right_tokens", "wrong_tokens", "truncated", "area", "generated_tokens", "seconds"):
        values = [float(run[key]) for run in runs if run.get(key) is not None]
        if values:
            interval = mean_interval([[value] for value in values])
            bounds = {"low": interval.low, "high": interval.high} if len(values) > 1 else {}  # one seed has no interval
            found[key] = {"mean": interval.mean, **bounds, "each": values}
    return found


def _line(name: str, row: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [name, f"{len(row['seconds']['each'])} seed(s)" if row else "failed"]
    for key, form, factor in SHOWN:
        if key in row:
            mean, *bounds = (form.format(factor * row[key][k]) for k in ("mean", "low", "high") if k in row[key])
            parts.append(f"{key.replace('_', ' ')} {mean}" + (f" [{', '.join(bounds)}]" if bounds else ""))
    return "  ".join(parts)
