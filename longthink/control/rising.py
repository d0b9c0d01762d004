"""Rising responses: their length, or the share that meets the window, grows on the validation problems."""

from typing import Any, Literal

from pydantic import Field

from longthink.control.base import Rows, Trigger, slope

__all__ = ["Rising"]

KEYS = {"length": "validation/mean_tokens", "clip_ratio": "validation/truncated_share"}


class Rising(Trigger):
    """Fires when the slope of the metric over the last `validations` validations has a 95 % interval above zero.

    Source: DeepScaleR 3.3 (P2): length and clip ratio rise before a window is too small.
    """

    metric: Literal["length", "clip_ratio"] = "length"
    validations: int = Field(12, ge=3)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        checked = [r for r in rows if "validation/accuracy" in r][-self.validations :]
        if len(checked) < self.validations:
            return None
        found = slope(checked, KEYS[self.metric])
        return {f"{self.metric}_slope": found._asdict()} if found.low > 0 else None
