"""All of several triggers at once."""

from typing import Any, Self

from pydantic import Field, model_validator

from longthink.control.base import Rows, Trigger
from longthink.part import load_part

__all__ = ["All"]


class All(Trigger):
    """Fires when every trigger in `of` fires; its evidence is theirs.

    Example: `{ kind = "all", of = [{ kind = "plateau" }, { kind = "rising" }] }`.
    """

    of: tuple[dict[str, Any], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for index, table in enumerate(self.of):
            load_part(Trigger, table, f"of.{index}")
        return self

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = {f"{t['kind']}.{i}": load_part(Trigger, t).fires(rows) for i, t in enumerate(self.of)}
        return None if any(evidence is None for evidence in found.values()) else dict(found)
