"""`longthink twins`: what would have happened without a decision, and whether the decision helped, with an interval."""

import argparse
import json
from pathlib import Path
from typing import Any

from longthink import checkpoint, storage
from longthink.checkpoint import Parent
from longthink.errors import CheckpointError, LearnerError, RecipeError
from longthink.recipe import Recipe
from longthink.run import Run
from longthink.settings import fold
from longthink.stats import paired_difference
from longthink.train import train

__all__ = ["command", "twin_recipe", "twins"]


def twins(folder: Path, steps: int) -> list[dict[str, Any]] | None:
    """Train a twin of the state before each automatic decision of a run, as if nothing had been decided, and compare.

    A twin takes `steps` steps, or as many more as the run's next validation needs, with the settings that were in force, from
    the weights, optimizer, reference and problems the run had. Both are then validated on the same problems, so that the
    difference is paired: mean score with minus without the decision over the problems of all weighted sets alike, what our side
    failed to grade left out, with a 95 % t-interval over problems. It is of one training each: what another seed would do is
    not in the interval. Decisions without a later validation have no twin, nor do those of a run whose settings move with
    its history: a cycle, a signal, an adaptive entropy bonus, references replaced on a cadence. A twin that fails is
    recorded as that. The comparisons go into twins.json; None when a twin was interrupted. Raises: CheckpointError, RecipeError.
    """
    run = _read(folder)
    if not (folder / "twins").is_dir():
        why = "it took none" if run.recipe.checkpoint.twins else "set checkpoint.twins = true in its recipe"
        raise CheckpointError(f"{folder} has kept no state before its automatic decisions: {why}")
    found: list[dict[str, Any]] = []
    for number, event in enumerate(run.events):
        step = int(event["step"])
        end = _compared_at(run, step, steps)
        if step not in checkpoint.steps(folder / "twins") or end is None:
            continue
        recipe = twin_recipe(run, number, end)
        if recipe.rollout.cycle or recipe.rollout.signal or recipe.loss.entropy_target or recipe.reference.replace_every:
            continue
        out = folder / "twins" / f"after_{step:06d}_to_{end:06d}"
        facts = {"step": step, "rule": event["rule"], "compared_at": end}
        try:
            twin = _train(recipe, out, checkpoint.checkpoint_path(folder / "twins", step))
        except LearnerError as why:
            found.append(facts | {"failed": str(why)})
        else:
            if not twin.complete:
                return None
            ours, theirs = _scores(run, end), _scores(twin, end - step)
            both = [key for key in ours if key in theirs]
            difference = paired_difference([ours[key] for key in both], [theirs[key] for key in both])
            found.append(facts | {"difference": difference._asdict()})
        storage.replace_file(folder / "twins.json", json.dumps(found, indent=1).encode())
    return found


def _train(recipe: Recipe, out: Path, start: Path) -> Run:
    """A twin from where the run was, or on from where the twin was."""
    begun = (out / "recipe.toml").exists()
    parent = None if begun else Parent(start, optimizer=True, data=True)
    return train(Run.open(out, None).recipe if begun else recipe, out, resume=begun, parent=parent)


def twin_recipe(run: Run, number: int, end: int) -> Recipe:
    """The recipe that was in force before event `number`, to the validation after step `end`, at the window of that one."""
    event = run.events[number]
    step = int(event["step"])
    rows = [r for r in run.rows if r["step"] <= step]
    made = fold(run.recipe, run.events[:number], rows[:-1]).recipe
    then = next(r for r in run.rows if r["step"] == end)
    asked = fold(
        run.recipe, [e for e in run.events if e["step"] < end], [r for r in run.rows if r["step"] < end]
    ).recipe.validation
    sets = tuple(s.model_copy(update={"window": s.at(int(then["window"]))}) for s in asked.blend)
    validation = {"window": sets[0].window, "sets": sets if asked.sets else (), "every": end - step, "finalists": 1}
    return made.model_copy(
        update={
            "name": f"{run.recipe.name}_twin",
            "stage": (),
            "rule": (),
            "model": run.recipe.model,
            "validation": asked.model_copy(update=validation),
            "checkpoint": made.checkpoint.model_copy(update={"twins": False, "keep": 1}),
            "budget": made.budget.model_copy(
                update={
                    "max_steps": end - step,
                    "max_epochs": 0.0,
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


def _scores(run: Run, step: int) -> dict[tuple[str, int], list[float]]:
    """The scores of a validation by set and problem, of the weighted sets."""
    found: dict[tuple[str, int], list[float]] = {}
    for made in run.recipe.validation.blend:
        for row in run.rollouts(step, f"validation.{made.name}" if made.name else "validation") if made.weight else ():
            if row["verdict"]["score"] is not None:
                found.setdefault((made.name, row["group"]), []).append(float(row["verdict"]["score"]))
    return found


def command(args: argparse.Namespace) -> int:
    """`longthink twins`."""
    found = twins(args.run, args.steps)
    for twin in found or ():
        if "failed" in twin:
            print(f"step {twin['step']}, {twin['rule']}: without it the run fails: {twin['failed']}")
            continue
        low, mean, high = (100 * twin["difference"][key] for key in ("low", "mean", "high"))
        verdict = "helped" if low > 0 else "hurt" if high < 0 else "not distinguishable"
        what = f"step {twin['step']}, {twin['rule']}: {verdict}"
        print(f"{what}, {mean:+.1f} points [{low:+.1f}, {high:+.1f}] at step {twin['compared_at']}")
    if found is None:
        print("interrupted; the same command goes on")
        return 130
    if not found:
        print("no automatic decision with a later validation")
    return 0
