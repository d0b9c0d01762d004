"""`longthink twins`: what would have happened without a decision, and whether the decision helped, with an interval."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longthink import checkpoint, storage
from longthink.errors import CheckpointError, RecipeError
from longthink.recipe import Recipe
from longthink.run import Run
from longthink.settings import fold
from longthink.stats import paired_difference
from longthink.train import Parent, train

__all__ = ["twin_recipe", "twins"]


def twins(folder: Path, steps: int) -> list[dict[str, Any]] | None:
    """Train a twin of the state before each automatic decision of a run, as if nothing had been decided, and compare.

    A twin takes `steps` steps, or as many more as the run's next validation needs, with the settings that were in force, from
    the weights, optimizer, reference and problems the run had. Both are then validated on the same problems, so that the
    difference is paired: mean accuracy with minus without the decision, 95 % t-interval over problems. It is of one
    training each: what another seed would do is not in the interval. Decisions without a later validation, and those of a
    window that moves by itself, have no twin. The comparisons go into twins.json; None when a twin was interrupted.
    Raises: CheckpointError, RecipeError.
    """
    run = _read(folder)
    if not (folder / "twins").is_dir():
        raise CheckpointError(f"{folder} has kept no state before its decisions; set checkpoint.twins = true in its recipe")
    found = []
    for number, event in enumerate(run.events):
        step = int(event["step"])
        end = _compared_at(run, step, steps)
        if step not in checkpoint.steps(folder / "twins") or end is None:
            continue
        recipe = twin_recipe(run, number, end)
        if recipe.rollout.cycle or recipe.rollout.signal:
            continue
        out = folder / "twins" / f"after_{step:06d}"
        begun = (out / "recipe.toml").exists()
        parent = Parent(checkpoint.checkpoint_path(folder / "twins", step), optimizer=True, data=True)
        twin = train(Run.open(out, None).recipe if begun else recipe, out, resume=begun, parent=None if begun else parent)
        if not twin.complete:
            return None
        difference = paired_difference(_scores(run, end), _scores(twin, end - step))
        found.append({"step": step, "rule": event["rule"], "compared_at": end, "difference": difference._asdict()})
        storage.replace_file(folder / "twins.json", json.dumps(found, indent=1).encode())
    return found


def twin_recipe(run: Run, number: int, end: int) -> Recipe:
    """The recipe that was in force before event `number`, to the validation after step `end`, at the window of that one."""
    event = run.events[number]
    step = int(event["step"])
    rows = [r for r in run.rows if r["step"] <= step]
    made = fold(run.recipe, run.events[:number], rows[:-1]).recipe
    then = next(r for r in run.rows if r["step"] == end)
    window = fold(run.recipe, [e for e in run.events if e["step"] < end], [r for r in run.rows if r["step"] < end])
    sets = tuple(s.model_copy(update={"window": s.at(int(then["window"]))}) for s in window.recipe.validation.blend)
    validation = {"window": sets[0].window, "sets": sets if window.recipe.validation.sets else (), "every": end - step}
    return made.model_copy(
        update={
            "name": f"{run.recipe.name}_twin",
            "stage": (),
            "rule": (),
            "model": run.recipe.model,
            "validation": made.validation.model_copy(update={**validation, "finalists": 1}),
            "checkpoint": made.checkpoint.model_copy(update={"twins": False, "keep": 1}),
            "budget": made.budget.model_copy(
                update={
                    "max_steps": end - step,
                    "max_generated_tokens": 0,
                    "max_hours": 0.0,
                    "max_gpu_hours": 0.0,
                    "max_cost": 0.0,
                }
            ),
        }
    )


def _read(folder: Path) -> Run:
    run = Run.open(folder, None)
    run.rows = storage.read_lines(folder / "metrics.jsonl")
    run.events = storage.read_lines(folder / "events.jsonl")
    return run


def _compared_at(run: Run, step: int, steps: int) -> int | None:
    """The first validated step at least `steps` after a decision."""
    if steps < 1:
        raise RecipeError(f"--steps is {steps}, expected at least 1")
    return next((int(r["step"]) for r in run.rows if r["step"] >= step + steps and "validation/accuracy" in r), None)


def _scores(run: Run, step: int) -> list[list[float]]:
    """Scores by problem of a validation, all weighted sets one after another."""
    found = []
    for made in run.recipe.validation.blend:
        if made.weight:
            problems: dict[int, list[float]] = {}
            for row in run.rollouts(step, f"validation.{made.name}" if made.name else "validation"):
                problems.setdefault(row["group"], []).append(_score(row))
            found += [problems[group] for group in sorted(problems)]
    return found


def _score(row: Mapping[str, Any]) -> float:
    return float(row["verdict"]["score"] or 0.0)
