"""The interface of a trigger: the history in, evidence or nothing out; pure."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from longthink.part import Part
from longthink.stats import Interval, slope_interval

Steps = Annotated[int, Field(ge=3)] | Literal[0]  # values a slope is drawn through, or none

__all__ = ["Rows", "Steps", "Trigger", "latest", "mean_of", "slope", "stands_still"]

Rows = Sequence[Mapping[str, Any]]


class Trigger(Part):
    """Decides when a stage ends, or when a rule acts."""

    @abstractmethod
    def fires(self, rows: Rows) -> dict[str, Any] | None:
        """The numbers that decide it, or None to go on.

        `rows` are the metrics since the stage began, or since the last event that acted in it, oldest first.
        """


def latest(rows: Rows, key: str, count: int) -> list[float]:
    """The last `count` values of a metric, oldest first; empty where there are fewer."""
    values = [float(r[key]) for r in rows if key in r]
    return values[-count:] if len(values) >= count else []


def mean_of(rows: Rows, key: str, over: int) -> float | None:
    """The mean of the last `over` values of a metric, or None where there are fewer."""
    values = latest(rows, key, over)
    return sum(values) / len(values) if values else None


def stands_still(rows: Rows, validations: int, reward_over: int) -> dict[str, Interval] | None:
    """The slopes that show a plateau, or None where one surely rises or there are too few values.

    They are of accuracy over the last `validations` validations, and with `reward_over` of the training reward over the last so
    many steps, which is noisier in a step but has many more rollouts: few validation problems alone call much a plateau.
    """
    checked = [r for r in rows if "validation/accuracy" in r]
    rewards = [r for r in rows if "reward/mean" in r]
    if len(checked) < validations or len(rewards) < reward_over:
        return None
    found = {"accuracy_slope": slope(checked[-validations:], "validation/accuracy")}
    if reward_over:
        found["reward_slope"] = slope(rewards[-reward_over:], "reward/mean")
    return None if any(interval.low > 0 for interval in found.values()) else found


def slope(rows: Rows, key: str, confidence: float = 0.95) -> Interval:
    """Change per step of a metric over all rows, with its interval."""
    return slope_interval([float(r["step"]) for r in rows], [float(r[key]) for r in rows], confidence)
