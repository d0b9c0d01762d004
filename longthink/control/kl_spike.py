"""A KL spike: the policy suddenly leaves its reference."""

from statistics import median
from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, latest

__all__ = ["KlSpike"]


class KlSpike(Trigger):
    """Fires when the last step's KL is above `factor` times the median of the `over` steps before it, and above `floor`.

    Source: NVIDIA 3.3.1, which resets reference and optimizer when the KL spikes; the numbers are ours.
    """

    factor: float = Field(5.0, gt=1)
    over: int = Field(20, ge=3)
    floor: float = Field(0.01, ge=0, description="nats; smaller KLs are never a spike")

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        values = latest(rows, "loss/kl/mean", self.over + 1)
        if not values or values[-1] <= max(self.floor, self.factor * median(values[:-1])):
            return None
        return {"kl": values[-1], "median_before": median(values[:-1])}
