"""The settings in force at a step: a pure fold of the recipe, the events so far and the rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longthink.control.base import Rows
from longthink.errors import RecipeError
from longthink.recipe import Recipe
from longthink.schedules import entropy_coefficient, window_at
from longthink.signals import window_by_signal
from longthink.staging import Stage
from longthink.tables import MOVING, LossSettings, RolloutSettings

__all__ = ["Settings", "fold", "in_force"]


@dataclass(frozen=True)
class Settings:
    """What is in force: `recipe` has the stage's changes in it, `rollout` and `loss` what changes by the clock too."""

    stage: int
    begun: int  # the step after which the stage began
    recipe: Recipe
    rollout: RolloutSettings  # with the cycle's or the signal's window
    loss: LossSettings  # with the entropy bonus in force

    def current(self, recipe: Recipe) -> Stage | None:
        """The stage's table, or None for a recipe without stages."""
        return recipe.stage[self.stage] if recipe.stage else None


def fold(recipe: Recipe, events: Iterable[Mapping[str, Any]], rows: Rows = (), ahead: int = 0) -> Settings:
    """What the events made of the recipe, for the step after the last of `rows` (the run's metrics so far), or `ahead` later.

    A stage inherits what it does not name; what a rule has set stays set in later stages. A cycle's own clock stands at 0 in
    the first step of the stage that names it, and of the run for `rollout.cycle`.
    """
    events, stage, begun, began = list(events), 0, 0, 0
    step = (int(rows[-1]["step"]) + 1 if rows else 1) + ahead
    for event in events:
        if "stage" in event["action"]:
            stage, begun = int(event["action"]["stage"]), int(event["step"])
            began = begun if MOVING & recipe.stage[stage].rollout.keys() else began
    made = in_force(recipe, stage, events)
    rollout = made.rollout
    if rollout.cycle:
        rollout = rollout.model_copy(update={"window": window_at(step - 1 - began, rollout.cycle)})
    if rollout.signal:
        rollout = rollout.model_copy(update={"window": window_by_signal([r for r in rows if r["step"] > began], rollout.signal)})
    entropies = [float(r["policy/entropy/mean"]) for r in rows if "policy/entropy/mean" in r]
    loss = made.loss.model_copy(update={"entropy": entropy_coefficient(entropies, made.loss)})
    return Settings(stage, begun, made, rollout, loss)


def in_force(recipe: Recipe, stage: int, events: Iterable[Mapping[str, Any]]) -> Recipe:
    """The recipe of a stage with what the events have set. Raises: RecipeError where the two contradict each other."""
    made = recipe.staged[stage]
    for event in events:
        if event["action"].get("set"):
            try:
                made = made.changed(event["action"]["set"])
            except ValueError as error:
                raise RecipeError(f"what was set after step {event['step']} does not go with stage {stage}: {error}") from None
    return made
