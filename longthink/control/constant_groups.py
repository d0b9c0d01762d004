"""Too many groups without a signal: the problems are too easy, or too hard."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["ConstantGroups"]


class ConstantGroups(Trigger):
    """Fires when the mean share of constant groups over the last `over` steps is at least `share`.

    Source: DeepScaleR's code logs such groups in every step; NVIDIA drops them (dynamic sampling). The share is ours.
    """

    share: float = Field(0.8, gt=0, le=1)
    over: int = Field(5, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = mean_of(rows, "group/constant_share", self.over)
        return {"constant_share": found, "steps": self.over} if found is not None and found >= self.share else None
