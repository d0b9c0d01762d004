"""What ends a stage: its trigger or its number of steps; pure, from the run's rows."""

from collections.abc import Sequence
from typing import Any

from longthink.control.base import Trigger
from longthink.recipe import Recipe
from longthink.run import Run
from longthink.settings import Settings

__all__ = ["stage_end"]


def stage_end(recipe: Recipe, settings: Settings, run: Run, triggers: Sequence[Trigger | None]) -> dict[str, Any] | None:
    """The event that ends the current stage after the run's last step, with its evidence, or None.

    The next stage begins from the best-validated checkpoint of the one that ends (DeepScaleR's P2), or from the last.
    """
    stage, step = settings.current(recipe), run.step
    if stage is None or settings.stage + 1 >= len(recipe.stage):
        return None
    trigger = triggers[settings.stage]
    evidence = trigger.fires([r for r in run.rows if r["stage"] == settings.stage]) if trigger else None
    rule = str(stage.until["kind"]) if evidence is not None and stage.until else "max_steps"
    if evidence is None and stage.max_steps and step - settings.begun >= stage.max_steps:
        evidence = {"steps": step - settings.begun}
    if evidence is None:
        return None
    following, best = recipe.stage[settings.stage + 1], run.best(settings.stage)
    origin = int(best["step"]) if following.begin_from == "best" and best is not None else step
    action = {"stage": settings.stage + 1, "from_step": origin}
    return {"step": step, "kind": "stage", "rule": rule, "action": action, "evidence": evidence}
