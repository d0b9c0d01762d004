"""A verifier that fails: too many rollouts have no score."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, mean_of

__all__ = ["VerifierFailures"]


class VerifierFailures(Trigger):
    """Fires when the mean share of rollouts without a score over the last `over` steps is at least `share`.

    Source: NVIDIA 3.1.2 asks that a failing reward environment does not end a run; that somebody hears of it is ours.
    """

    share: float = Field(0.2, gt=0, le=1)
    over: int = Field(5, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = mean_of(rows, "verdict/unscored_share", self.over)
        return {"unscored_share": found, "steps": self.over} if found is not None and found >= self.share else None
