"""Any of several triggers."""

from typing import Any as Value
from typing import Self

from pydantic import Field, model_validator

from longthink.control.base import Rows, Trigger
from longthink.part import load_part

__all__ = ["Any"]


class Any(Trigger):
    """Fires when a trigger in `of` fires; its evidence is that of all that do.

    Example: `{ kind = "any", of = [{ kind = "rising" }, { kind = "rising", metric = "clip_ratio" }] }`.
    """

    of: tuple[dict[str, Value], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for index, table in enumerate(self.of):
            load_part(Trigger, table, f"of.{index}")
        return self

    def fires(self, rows: Rows) -> dict[str, Value] | None:
        each = [(str(t["kind"]), load_part(Trigger, t).fires(rows)) for t in self.of]
        found = {f"{kind}.{i}": evidence for i, (kind, evidence) in enumerate(each) if evidence is not None}
        return found or None
