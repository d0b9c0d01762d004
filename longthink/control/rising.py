"""Rising responses: their length, or the share that meets the window, grows."""

from typing import Any, Literal

from pydantic import Field

from longthink.control.base import Rows, Trigger, slope

__all__ = ["Rising"]

KEYS = {
    "length": "validation/mean_tokens",
    "clip_ratio": "validation/truncated_share",
    "training_length": "length/mean",
    "training_clip_ratio": "length/clip_ratio",
}


class Rising(Trigger):
    """Fires when the slope of the metric over its last `over` values has an interval of `confidence` above zero.

    Length and clip ratio are those of the validations, of the same problems every time; with `training_` those of every step,
    whose problems change and whose errors are not independent: give them more values.
    Source: DeepScaleR 3.3 (P2): length and clip ratio rise before a window is too small.
    """

    metric: Literal["length", "clip_ratio", "training_length", "training_clip_ratio"] = "length"
    over: int = Field(16, ge=3)
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the interval; it is judged again after every value")

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        seen = [r for r in rows if KEYS[self.metric] in r][-self.over :]
        if len(seen) < self.over:
            return None
        found = slope(seen, KEYS[self.metric], self.confidence)
        return {f"{self.metric}_slope": found._asdict()} if found.low > 0 else None
