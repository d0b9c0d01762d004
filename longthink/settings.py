"""The settings in force at a step: a pure fold of the recipe and the events so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longthink.control.base import Rows
from longthink.recipe import Recipe
from longthink.schedules import entropy_coefficient, window_at
from longthink.tables import LossSettings, RolloutSettings, Stage

__all__ = ["Settings", "fold"]


@dataclass(frozen=True)
class Settings:
    """What may change between stages; all else is read from the recipe."""

    stage: int
    begun: int  # the step after which the stage began
    rollout: RolloutSettings
    lr: float
    loss: LossSettings  # with the entropy bonus in force

    def current(self, recipe: Recipe) -> Stage | None:
        """The stage's table, or None for a recipe without stages."""
        return recipe.stage[self.stage] if recipe.stage else None


def fold(recipe: Recipe, events: Iterable[Mapping[str, Any]], rows: Rows = ()) -> Settings:
    """Apply stage after stage, as far as the events went, for the step after the last of `rows` (the run's metrics so far).

    Stages inherit what they do not name.
    One that names a window leaves the cycle of the one before. A cycle's own clock stands at 0 in the first step of
    the stage that names it, and of the run for `rollout.cycle`.
    """
    stage = begun = began = 0
    step = int(rows[-1]["step"]) + 1 if rows else 1
    for event in events:
        if "stage" in event["action"]:
            stage, begun = int(event["action"]["stage"]), int(event["step"])
            began = begun if recipe.stage[stage].cycle else began
    rollout, lr = recipe.rollout, recipe.learner.lr
    for table in recipe.stage[: stage + 1]:
        changes = {k: getattr(table, k) for k in ("window", "temperature", "group_size") if getattr(table, k) is not None}
        if table.window or table.cycle:
            changes["cycle"] = table.cycle
        rollout = rollout.model_copy(update=changes)
        lr = table.lr if table.lr is not None else lr
    if rollout.cycle:
        rollout = rollout.model_copy(update={"window": window_at(step - 1 - began, rollout.cycle)})
    entropies = [float(r["policy/entropy/mean"]) for r in rows if "policy/entropy/mean" in r]
    loss = recipe.loss.model_copy(update={"entropy": entropy_coefficient(entropies, recipe.loss)})
    return Settings(stage, begun, rollout, lr, loss)
