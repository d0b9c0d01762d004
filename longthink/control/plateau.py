"""A plateau: validation accuracy has stopped rising, judged with its interval."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger, slope

__all__ = ["Plateau"]


class Plateau(Trigger):
    """Fires when the slope of accuracy over the last `validations` validations has a 95 % interval that is not above zero.

    Source: DeepScaleR 3.3 (P2), where the authors judged by eye.
    """

    validations: int = Field(6, ge=3)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        checked = [r for r in rows if "validation/accuracy" in r][-self.validations :]
        if len(checked) < self.validations:
            return None
        found = slope(checked, "validation/accuracy")
        return None if found.low > 0 else {"accuracy_slope": found._asdict(), "steps": [int(r["step"]) for r in checked]}
