"""STILL-3's reward on response length (RRL): longer responses are worth more."""

from collections.abc import Sequence

from pydantic import Field

from longthink.shaping.base import Outcome, Shape

__all__ = ["Length"]


class Length(Shape):
    """tokens / max_length, at most 1. The correctness of +1 or -1 is the part `accuracy` with `wrong = -1` beside this one.

    Source: STILL-3 4.2.1, RRL; found there to lengthen responses and to hurt accuracy.

    >>> Length().values([Outcome(1.0, n, 0, 200, False) for n in (50, 200)])
    [0.25, 1.0]
    """

    max_length: int = Field(0, ge=0, description="tokens; 0 for the window")

    def values(self, group: Sequence[Outcome]) -> list[float]:
        return [min(o.tokens / (self.max_length or o.window), 1.0) for o in group]
