"""Entropy that collapses or explodes, against what it was when the stage began."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["Entropy"]


class Entropy(Trigger):
    """Fires when the mean entropy of the last `over` steps is below `low` or above `high` times that of the first `over`.

    Source: NVIDIA 4.3 (entropy collapse) and 3.2 (gibberish at high temperature); the shares are ours. 0 switches a side off.
    """

    low: float = Field(0.2, ge=0, lt=1)
    high: float = Field(2.0, ge=0)
    over: int = Field(5, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        seen = [r for r in rows if "policy/entropy/mean" in r]
        first, now = mean_of(seen[: self.over], "policy/entropy/mean", self.over), mean_of(seen, "policy/entropy/mean", self.over)
        if first is None or now is None or len(seen) < 2 * self.over:
            return None
        if now < self.low * first or (self.high and now > self.high * first):
            return {"entropy": now, "at_first": first}
        return None
