"""A plateau: validation accuracy has stopped rising, judged with its interval."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Steps, Trigger, stands_still

__all__ = ["Plateau"]


class Plateau(Trigger):
    """Fires when the slope of accuracy over the last `validations` validations has a 95 % interval that is not above zero.

    With `reward_over` the same must hold for the training reward over the last so many steps.
    Source: DeepScaleR 3.3 (P2), where the authors judged by eye.
    """

    validations: int = Field(12, ge=3)
    reward_over: Steps = Field(0, description="steps of training reward that must stand still too, at least 3; 0 for none")

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        found = stands_still(rows, self.validations, self.reward_over)
        if found is None:
            return None
        checked = [int(r["step"]) for r in rows if "validation/accuracy" in r][-self.validations :]
        return {name: interval._asdict() for name, interval in found.items()} | {"steps": checked}
