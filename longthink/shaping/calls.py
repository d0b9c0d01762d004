"""What it is worth to call the tool."""

from collections.abc import Sequence

from pydantic import Field

from longthink.shaping.base import Outcome, Shape

__all__ = ["Calls"]


class Calls(Shape):
    """`used` for a right answer with at least one call that came to its end, and `failed` for each call that did not.

    With `only_right` off, `used` is for wrong answers too. Source: the first version of DeepScaleR's code adds 0.5 to a right
    answer that called a tool; the price of a failing call is ours.

    >>> Calls(failed=-0.1).values([Outcome(1, 9, 9, 99, False, calls=n, failed=f) for n, f in ((0, 0), (2, 1), (1, 1))])
    [0.0, 0.4, -0.1]
    """

    used: float = Field(0.5, description="for calls that came to their end")
    failed: float = Field(0.0, description="for each that did not")
    only_right: bool = True

    def values(self, group: Sequence[Outcome]) -> list[float]:
        paid = [o.calls > o.failed and (o.right or not self.only_right) for o in group]
        return [self.used * pays + self.failed * o.failed for o, pays in zip(group, paid, strict=True)]
