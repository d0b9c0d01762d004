"""DeepScaleR's rule for a longer window: performance stands still while responses press against the window."""

from typing import Any

from pydantic import Field

from longthink.control.base import Rows, Steps, Trigger, slope, stands_still

__all__ = ["Lengthen"]


class Lengthen(Trigger):
    """Fires on plateau AND (rising length OR rising clip ratio).

    Plateau: over the stage's last `validations` validations, the slope of accuracy has a 95 % interval that does
    not lie above zero, and with `reward_over` neither does that of the training reward over its last so many steps.
    Rising: over its last `rising_over` (fewer while it is young), the slope of the mean response length, or of the
    truncated share, has an interval of `confidence` that lies above zero. All but the reward are read off the
    validation problems, which are the same every time, so that the difficulty of a step's prompts does not pass for
    a trend. Nothing fires before the stage has had `validations` validations.
    Source: DeepScaleR 3.3 (P2) and its two switches: at step 1,040 with the clip ratio going from 4.2 to
    6.5 %, and at 480 with a clip ratio of 2.0 % and lengths slightly falling, hence the OR. Differs: the
    authors watched training curves by eye.
    """

    validations: int = Field(10, ge=3)
    rising_over: int = Field(12, ge=3)
    confidence: float = Field(0.95, gt=0.5, lt=1, description="that length or clip ratio rises; it is judged at every validation")
    reward_over: Steps = Field(0, description="steps of training reward that must stand still too, at least 3; 0 for none")

    def fires(self, rows: Rows) -> dict[str, Any] | None:
        checked = [r for r in rows if "validation/accuracy" in r][-self.rising_over :]
        still = stands_still(rows, self.validations, self.reward_over)
        if still is None:
            return None
        keys = ("validation/mean_tokens", "validation/truncated_share")
        length, clipped = (slope(checked, key, self.confidence) for key in keys)
        if max(length.low, clipped.low) <= 0:
            return None
        rising = [name for name, slope in (("length", length), ("clip ratio", clipped)) if slope.low > 0]
        return {
            "steps": [int(r["step"]) for r in checked],
            "accuracy": [round(float(r["validation/accuracy"]), 4) for r in checked],
            "length": [round(float(r["validation/mean_tokens"]), 1) for r in checked],
            "clip_ratio": [round(float(r["validation/truncated_share"]), 4) for r in checked],
            **{name: interval._asdict() for name, interval in still.items()},
            "length_slope": length._asdict(),
            "clip_ratio_slope": clipped._asdict(),
            "rising": " and ".join(rising),
        }
