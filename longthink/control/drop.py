"""A drop: validation accuracy lies clearly below the best of the stage."""

import math
from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger

__all__ = ["Drop"]


class Drop(Trigger):
    """Fires when each of the last `validations` accuracies lies below the best before them by more than `errors` standard errors.

    The error is that of the difference of two independent validations, from their 95 % intervals; on the same problems
    the true one is smaller, so the rule is slow rather than rash. Source: NVIDIA 3.3.1 (validation degrades).
    """

    validations: int = Field(2, ge=1)
    errors: float = Field(2.0, gt=0)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        checked = [r for r in rows if "validation/accuracy" in r]
        if len(checked) <= self.validations:
            return None
        before, after = checked[: -self.validations], checked[-self.validations :]
        best = max(before, key=lambda r: float(r["validation/accuracy"]))
        gaps = [float(best["validation/accuracy"]) - float(r["validation/accuracy"]) for r in after]
        errors = [math.hypot(_error(best), _error(r)) for r in after]
        if any(gap <= self.errors * error for gap, error in zip(gaps, errors, strict=True)):
            return None
        accuracies = [float(r["validation/accuracy"]) for r in after]
        return {
            "best": float(best["validation/accuracy"]),
            "best_step": int(best["step"]),
            "accuracy": accuracies,
            "error": errors,
        }


def _error(row: Any) -> float:
    """The standard error behind a validation's 95 % interval."""
    return (float(row["validation/high"]) - float(row["validation/low"])) / (2 * 1.96)
