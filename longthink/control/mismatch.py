"""Sampler and learner that disagree about the odds of the same tokens."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["Mismatch"]


class Mismatch(Trigger):
    """Fires when the mean absolute log-prob difference over the last `over` steps is above `above` nats.

    Source: Yao et al. 2025 on truncated importance sampling; the bound is ours.
    """

    above: float = Field(0.2, gt=0)
    over: int = Field(5, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = mean_of(rows, "mismatch/logprob_gap/mean", self.over)
        return {"logprob_gap": found, "steps": self.over} if found is not None and found > self.above else None
