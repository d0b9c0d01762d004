"""A KL spike: the policy suddenly leaves its reference."""

from statistics import median
from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, latest

__all__ = ["KlSpike"]


class KlSpike(Trigger):
    """Fires when the last step's KL is above `factor` times the median of `over` earlier steps, and above `floor`.

    The `gap` steps just before are left out of the median: a spike may take some steps to rise.
    Source: NVIDIA 3.3.1, which resets reference and optimizer when the KL spikes; the numbers are ours.
    """

    factor: float = Field(8.0, gt=1)
    over: int = Field(20, ge=3)
    gap: int = Field(10, ge=0)
    floor: float = Field(0.01, ge=0, description="nats; smaller KLs are never a spike")

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        values = latest(rows, "loss/kl/mean", self.over + self.gap + 1)
        if not values:
            return None
        before = median(values[: self.over])
        return {"kl": values[-1], "median_before": before} if values[-1] > max(self.floor, self.factor * before) else None
