"""DAPO's soft punishment of responses that come near the window."""

from collections.abc import Sequence

from pydantic import Field

from longthink.shaping.base import Outcome, Shape

__all__ = ["Overlong"]


class Overlong(Shape):
    """0 up to `buffer` tokens before the window, then falling on a straight line to -1 at the window.

    Source: DAPO eq. 13 (2025), with a buffer of 4,096 in a window of 20,480.

    >>> Overlong(buffer=40).values([Outcome(1.0, n, 0, 100, n == 100) for n in (60, 70, 100)])
    [0.0, -0.25, -1.0]
    """

    buffer: int = Field(ge=1, description="tokens before the window where the penalty begins")

    def values(self, group: Sequence[Outcome]) -> list[float]:
        return [0.0 - min(max(o.tokens - (o.window - self.buffer), 0) / self.buffer, 1.0) for o in group]
