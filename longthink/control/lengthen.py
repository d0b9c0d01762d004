"""DeepScaleR's rule for a longer window: performance stands still while responses press against the window."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Trigger
from longthink.stats import Interval, slope_interval

__all__ = ["Lengthen"]


class Lengthen(Trigger):
    """Fires on plateau AND (rising length OR rising clip ratio).

    Plateau: the slope of validation accuracy over the last `validations` validations has a 95 % interval
    that does not lie above zero. Rising: the slope of the mean length, or of the clip ratio, over the last
    `steps` training steps has an interval that lies above zero. Nothing fires before both spans are full.
    Source: DeepScaleR 3.3 (P2) and its two switches: at step 1,040 with the clip ratio going from 4.2 to
    6.5 %, and at 480 with a clip ratio of 2.0 % and lengths slightly falling, hence the OR.
    """

    validations: int = Field(4, ge=3)
    steps: int = Field(10, ge=3)

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        checked = [r for r in rows if "validation/accuracy" in r][-self.validations :]
        recent = [r for r in rows if "length/mean" in r][-self.steps :]  # a step without a group has no length
        if len(checked) < self.validations or len(recent) < self.steps:
            return None
        accuracy = _slope(checked, "validation/accuracy")
        length, clipped = _slope(recent, "length/mean"), _slope(recent, "length/clip_ratio")
        if accuracy.low > 0 or max(length.low, clipped.low) <= 0:
            return None
        return {
            "accuracy_slope": accuracy._asdict(),
            "length_slope": length._asdict(),
            "clip_ratio_slope": clipped._asdict(),
            "accuracy": checked[-1]["validation/accuracy"],
            "length": recent[-1]["length/mean"],
            "clip_ratio": recent[-1]["length/clip_ratio"],
            "rising": "length" if length.low > 0 else "clip ratio",
        }


def _slope(rows: list[Mapping[str, Any]] | Rows, key: str) -> Interval:
    """Change per step of a metric, with its interval."""
    return slope_interval([float(r["step"]) for r in rows], [float(r[key]) for r in rows])
