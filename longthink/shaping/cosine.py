"""Open-RS's cosine reward: short right answers are worth more than long ones, and wrong ones are told apart by length."""

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from longthink.shaping.base import Outcome, Shape

__all__ = ["Cosine"]


class Cosine(Shape):
    """long + (short - long) · (1 + cos(π · length / max_length)) / 2, with one pair of values for right answers, one for wrong.

    The defaults are what the paper means: 1 to 0.5 right, -1 to -0.5 wrong (longer wrong answers cost less), tokens, and a
    length past `max_length` counts as that. The authors' training script does otherwise in three ways, each an option here:
    `wrong_short = 0.0` (longer wrong answers cost more), `unit = "characters"` against a number of tokens, and
    `clamp = false`, so that the reward swings back with every further `max_length`.
    Source: Open-RS 2.2 and its code, experiment 3 with max_length 3584.

    >>> Cosine(max_length=100).values([Outcome(s, n, 0, 100, False) for s, n in ((1, 0), (1, 50), (0, 0), (0, 100))])
    [1.0, 0.75, -1.0, -0.5]
    """

    right_short: float = 1.0
    right_long: float = 0.5
    wrong_short: float = -1.0
    wrong_long: float = -0.5
    max_length: int = Field(0, ge=0, description="in `unit`; 0 for the window, which needs tokens")
    unit: Literal["tokens", "characters"] = "tokens"
    clamp: bool = True

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if self.unit == "characters" and not self.max_length:
            raise ValueError("unit is characters without max_length; the window, its default, is in tokens: set max_length")
        return self

    def values(self, group: Sequence[Outcome]) -> list[float]:
        return [self._value(o) for o in group]

    def _value(self, o: Outcome) -> float:
        length = o.tokens if self.unit == "tokens" else o.characters
        progress = length / (self.max_length or o.window)
        short, long = (self.right_short, self.right_long) if o.right else (self.wrong_short, self.wrong_long)
        turn = math.cos(math.pi * (min(progress, 1.0) if self.clamp else progress))
        return long + 0.5 * (short - long) * (1.0 + turn)
