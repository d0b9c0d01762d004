"""Updates that could not be taken: the loss or its gradient was not finite."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, latest

__all__ = ["NonFinite"]


class NonFinite(Trigger):
    """Fires when the last step skipped at least `updates` updates; it needs `learner.non_finite = "skip"`.

    Source: ours. Example: `{ kind = "non_finite" }` with `do = "rollback"` and a smaller learning rate.
    """

    updates: int = Field(1, ge=1)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = latest(rows[-1:], "learner/non_finite/sum", 1)
        return {"skipped_updates": int(found[0])} if found and found[0] >= self.updates else None
