"""Accuracy: the verifier's score as a part of the reward."""

from collections.abc import Sequence

from longthink.shaping.base import Outcome, Shape

__all__ = ["Accuracy"]


class Accuracy(Shape):
    """wrong + (right - wrong) · score.

    Source: 1 and 0 in DeepScaleR, Open-RS, SIRI and NVIDIA; +1 and -1 in STILL-3's length and action rewards (4.2.1).

    >>> Accuracy(wrong=-1.0).values([Outcome(s, 5, 9, 10, False) for s in (1.0, 0.5, 0.0)])
    [1.0, 0.0, -1.0]
    """

    right: float = 1.0
    wrong: float = 0.0

    def values(self, group: Sequence[Outcome]) -> list[float]:
        return [self.wrong + (self.right - self.wrong) * o.score for o in group]
