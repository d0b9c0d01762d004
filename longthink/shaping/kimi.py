"""Kimi k1.5's length reward: within a group, shorter right answers are worth more."""

from collections.abc import Sequence

from longthink.shaping.base import Outcome, Shape

__all__ = ["Kimi"]


class Kimi(Shape):
    """0.5 - (tokens - least) / (most - least) for a right answer, at most 0 for a wrong one; 0 for all where lengths are equal.

    `least` and `most` are over the whole group, right or wrong.
    Source: Kimi k1.5 2.3.3 (2025); shipped unused with Open-RS, there as 1 - accuracy of the length.

    >>> Kimi().values([Outcome(s, n, 0, 100, False) for s, n in ((1, 10), (1, 30), (0, 10), (0, 50))])
    [0.5, 0.0, 0.0, -0.5]
    """

    def values(self, group: Sequence[Outcome]) -> list[float]:
        least, most = min(o.tokens for o in group), max(o.tokens for o in group)
        if least == most:
            return [0.0] * len(group)
        marks = [0.5 - (o.tokens - least) / (most - least) for o in group]
        return [mark if o.right else min(0.0, mark) for o, mark in zip(group, marks, strict=True)]
