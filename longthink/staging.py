"""The tables of a recipe that change it while it runs: stages and rules."""

from typing import Any, Literal

from pydantic import Field

from longthink.tables import Table

__all__ = ["CHANGEABLE", "Rule", "Stage"]

CHANGEABLE = ("rollout", "selection", "advantage", "loss", "reference", "learner", "validation", "domain", "shape")


class Rule(Table):
    """What is done when a trigger fires, in any stage: `when` names the trigger (longthink/control).

    next: the next stage. reset: a hard reset of reference and optimizer. rollback: back to the best validated checkpoint of
    the stage, its optimizer included. set: nothing but the changes. pause: stop after this step; `--resume` goes on. stop:
    end the run.
    """

    when: dict[str, Any]
    do: Literal["next", "reset", "rollback", "set", "pause", "stop"]
    set: dict[str, dict[str, Any]] = Field({}, description="keys that change with it, by table: { loss = { kl = 0.01 } }")
    scale: dict[str, dict[str, float]] = Field({}, description="numbers that are multiplied: { learner = { lr = 0.5 } }")
    times: int = Field(1, ge=1, description="at most so often in a run")
    cooldown: int = Field(0, ge=0, description="steps before it may act again, beside the history the trigger needs")


class Stage(Table):
    """One stage: what changes when it begins, as `rollout.window = 128` in its table, and what ends it.

    What a stage does not name it inherits from the one before. `until` names the trigger (longthink/control); a stage
    without one lasts to the end of the budget.
    """

    name: str = ""
    rollout: dict[str, Any] = Field({}, description="keys of [rollout] that change; a cycle counts from the stage's first step")
    selection: dict[str, Any] = Field({}, description="keys of [selection] that change")
    advantage: dict[str, Any] = Field({}, description="keys of [advantage] that change")
    loss: dict[str, Any] = Field({}, description="keys of [loss] that change")
    reference: dict[str, Any] = Field({}, description="keys of [reference] that change")
    learner: dict[str, Any] = Field({}, description="keys of [learner] that change")
    validation: dict[str, Any] = Field({}, description="keys of [validation] that change")
    domain: dict[str, dict[str, Any]] = Field({}, description="by a domain's name, its new weight: { code = { weight = 0.5 } }")
    shape: tuple[dict[str, Any], ...] | None = Field(None, description="new parts of the reward, in place of all there were")
    max_steps: int = Field(0, ge=0, description="end the stage after so many steps anyway; 0 for no limit")
    until: dict[str, Any] | None = None
    begin_from: Literal["best", "last"] = "best"
    reset: Literal["nothing", "reference", "hard"] = Field("nothing", description="hard: the reference and the optimizer")

    @property
    def changes(self) -> dict[str, Any]:
        """The keys that change, by table."""
        return {name: value for name in CHANGEABLE if (value := getattr(self, name)) or (name == "shape" and value is not None)}
