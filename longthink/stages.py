"""What happens after a step: a rule acts, a stage ends, or nothing; pure, from the run's rows and events."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longthink.contradictions import changes_of
from longthink.control.base import Trigger
from longthink.errors import LongthinkError
from longthink.part import load_part
from longthink.recipe import Recipe
from longthink.run import Run
from longthink.settings import Settings, in_force

__all__ = ["Triggers", "changes_nothing", "decision"]

Event = dict[str, Any]


class Triggers:
    """The triggers of a recipe's stages and rules, built once."""

    def __init__(self, recipe: Recipe) -> None:
        self.stages = [load_part(Trigger, s.until, f"stage.{i}.until") if s.until else None for i, s in enumerate(recipe.stage)]
        self.rules = [load_part(Trigger, rule.when, f"rule.{i}.when") for i, rule in enumerate(recipe.rule)]


def decision(recipe: Recipe, settings: Settings, run: Run, triggers: Triggers, fit: Callable[[Recipe], object]) -> Event | None:
    """The event after the run's last step, with its evidence, or None.

    It is what was asked for by hand, else what the first rule does whose trigger fires, else the stage's end. Triggers see
    the rows of the stage since the last event that changed something, so that what led to a decision does not lead to it again.
    An event whose changes would not go with what is in force, now or in a later stage, or that `fit` refuses, changes
    nothing and says why in its evidence.
    """
    event = _event(recipe, settings, run, triggers)
    if event is None or not event["action"].get("set"):
        return event
    try:
        for stage in range(event["action"].get("stage", settings.stage), len(recipe.staged)):
            fit(in_force(recipe, stage, [*run.events, event]))
    except (LongthinkError, ValueError) as why:
        return _refused(event, why)
    return event


def _refused(event: Event, why: Exception) -> Event:
    """The event without its changes, and why: a stage begins all the same, anything else is not done."""
    kept = {k: v for k, v in event["action"].items() if k in ("rule", "stage", "from_step", "chosen")}
    kept = kept if "stage" in kept else {"do": "set", **{k: v for k, v in kept.items() if k == "rule"}}
    return {**event, "action": kept, "evidence": {**event["evidence"], "refused": str(why)}}


def changes_nothing(action: Mapping[str, Any]) -> bool:
    """Whether an event left weights and settings as they were: a pause, or something refused."""
    return action.get("do") in ("pause", "set") and not action.get("set")


def _event(recipe: Recipe, settings: Settings, run: Run, triggers: Triggers) -> Event | None:
    since = max([settings.begun, *(int(e["step"]) for e in run.events if not changes_nothing(e["action"]))])
    rows = [r for r in run.rows if r["stage"] == settings.stage and (r["step"] > since or not since)]
    if (asked := run.request()) is not None:
        return _by_hand(recipe, settings, run, asked)
    for index, rule in enumerate(recipe.rule):
        before = [int(e["step"]) for e in run.events if e["action"].get("rule") == index]
        if len(before) >= rule.times or (before and run.step - before[-1] <= rule.cooldown):
            continue
        if rule.do == "next" and settings.stage + 1 >= len(recipe.stage):
            continue
        if (evidence := triggers.rules[index].fires(rows)) is None:
            continue
        name, target = str(rule.when["kind"]), settings.recipe
        action: dict[str, Any] = {"do": rule.do, "rule": index} | _origin(rule.do, settings, run)
        if rule.do == "next":
            target = in_force(recipe, settings.stage + 1, run.events)
            action = _next(recipe, settings, run, name, evidence)["action"] | {"rule": index}
        event = {"step": run.step, "kind": "rule", "rule": name, "action": action, "evidence": evidence}
        try:
            changes = changes_of(target, rule)
        except ValueError as why:
            return _refused(event, why)
        action |= {"set": changes} if changes else {}
        return event
    return _stage_end(recipe, settings, run, triggers.stages, rows)


def _by_hand(recipe: Recipe, settings: Settings, run: Run, asked: dict[str, Any]) -> Event:
    """The event of a request; one that has become impossible changes nothing and says why."""
    if asked["do"] == "next" and settings.stage + 1 < len(recipe.stage):
        return _next(recipe, settings, run, "by hand", {"asked": asked}) | {"kind": "hand"}
    action: dict[str, Any] = {**asked, **_origin(asked["do"], settings, run)}
    evidence: dict[str, Any] = {"asked": asked}
    if asked["do"] == "next":
        action, evidence["refused"] = {"do": "set"}, "there is no next stage"
    return {"step": run.step, "kind": "hand", "rule": "by hand", "action": action, "evidence": evidence}


def _origin(do: str, settings: Settings, run: Run) -> dict[str, Any]:
    """Where a rollback goes: the best validated checkpoint of the stage before this step; nothing for other actions."""
    if do != "rollback":
        return {}
    earlier = [r for r in run.finest(settings.stage, len(run.rows)) if r["step"] < run.step]
    return {"from_step": int(earlier[0]["step"]) if earlier else run.step, "chosen": "best"}


def _stage_end(
    recipe: Recipe, settings: Settings, run: Run, triggers: Sequence[Trigger | None], rows: list[dict[str, Any]]
) -> Event | None:
    """The end of the current stage by its trigger or its number of steps."""
    stage = settings.current(recipe)
    if stage is None or settings.stage + 1 >= len(recipe.stage):
        return None
    trigger = triggers[settings.stage]
    evidence = trigger.fires(rows) if trigger else None
    if evidence is not None and stage.until:
        return _next(recipe, settings, run, str(stage.until["kind"]), evidence)
    if stage.max_steps and run.step - settings.begun >= stage.max_steps:
        return _next(recipe, settings, run, "max_steps", {"steps": run.step - settings.begun})
    return None


def _next(recipe: Recipe, settings: Settings, run: Run, rule: str, evidence: dict[str, Any]) -> Event:
    """The event that begins the next stage, from the best-validated checkpoint of this one (DeepScaleR's P2) or the last."""
    following, best = recipe.stage[settings.stage + 1], run.best(settings.stage)
    action: dict[str, Any] = {"stage": settings.stage + 1, "from_step": run.step}
    if following.begin_from == "best" and best is not None:
        action |= {"from_step": int(best["step"]), "chosen": "best"}
    return {"step": run.step, "kind": "stage", "rule": rule, "action": action, "evidence": evidence}
