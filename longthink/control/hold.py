"""A trigger that must hold for several steps before it counts."""

from typing import Any, Self

from pydantic import Field, model_validator

from longthink.control.base import Rows, Trigger
from longthink.part import load_part

__all__ = ["Hold"]


class Hold(Trigger):
    """Fires when the trigger `of` fires after each of the last `steps` steps.

    Example: `{ kind = "hold", steps = 3, of = { kind = "kl_spike" } }`.
    """

    of: dict[str, Any]
    steps: int = Field(3, ge=2)

    @model_validator(mode="after")
    def _known(self) -> Self:
        load_part(Trigger, self.of, "of")
        return self

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        if len(rows) < self.steps:
            return None
        inner = load_part(Trigger, self.of)
        found = [inner.fires(rows[: len(rows) - back]) for back in range(self.steps)]
        return None if any(evidence is None for evidence in found) else {"held_steps": self.steps, **(found[0] or {})}
