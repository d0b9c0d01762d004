"""Language drift: responses leave the scripts they should be written in."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["LanguageDrift"]


class LanguageDrift(Trigger):
    """Fires when the mean of the reward's language part over the last `over` steps is below `below`.

    It needs a `[[shape]]` of kind `language`; `part` is its name. Source: Open-RS B.3, where drift set in after 200 steps.
    """

    below: float = Field(0.9, gt=0, le=1)
    over: int = Field(10, ge=1)
    part: str = "language"

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = mean_of(rows, f"reward/part/{self.part}/mean", self.over)
        return {"language": found, "steps": self.over} if found is not None and found < self.below else None
