"""Repetition without an end: responses that meet the window while they repeat themselves."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["Looping"]


class Looping(Trigger):
    """Fires when the mean share of looping rollouts (`length/looping_share`) over the last `over` steps is at least `share`.

    Source: NVIDIA's third run ended when responses repeated and did not stop (3.3); the share is ours.
    """

    share: float = Field(0.2, gt=0, le=1)
    over: int = Field(10, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = mean_of(rows, "length/looping_share", self.over)
        return {"looping_share": found, "steps": self.over} if found is not None and found >= self.share else None
