"""The settings in force at a step: a pure fold of the recipe and the events so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longthink.recipe import Recipe, RolloutSettings, Stage

__all__ = ["Settings", "fold"]


@dataclass(frozen=True)
class Settings:
    """What may change between stages; all else is read from the recipe."""

    stage: int
    begun: int  # the step after which the stage began
    rollout: RolloutSettings
    lr: float

    def current(self, recipe: Recipe) -> Stage | None:
        """The stage's table, or None for a recipe without stages."""
        return recipe.stage[self.stage] if recipe.stage else None


def fold(recipe: Recipe, events: Iterable[Mapping[str, Any]]) -> Settings:
    """Apply stage after stage, as far as the events went. Stages inherit what they do not name."""
    stage = begun = 0
    for event in events:
        if "stage" in event["action"]:
            stage, begun = int(event["action"]["stage"]), int(event["step"])
    rollout, lr = recipe.rollout, recipe.learner.lr
    for table in recipe.stage[: stage + 1]:
        changes = {k: getattr(table, k) for k in ("window", "temperature", "group_size") if getattr(table, k) is not None}
        rollout = rollout.model_copy(update=changes)
        lr = table.lr if table.lr is not None else lr
    return Settings(stage, begun, rollout, lr)
