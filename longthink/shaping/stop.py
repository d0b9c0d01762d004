"""The stop-properly coefficient: what a response that did not end by itself keeps of its reward."""

from collections.abc import Sequence

from pydantic import Field

from longthink.shaping.base import Outcome, Shape

__all__ = ["Stop"]


class Stop(Shape):
    """`coefficient` for a truncated response, 1 for one that ended; made to multiply the reward (`gate = true`).

    With `rollout.truncated` at its default a truncated response is not graded and only its other parts are left to scale; set
    it to `as_graded` to grade and then scale.
    Source: NVIDIA 3.3 penalises responses that do not end, from its fourth run on, by a value it does not give; a coefficient
    in [0, 1], 0 by default, is what NeMo RL's later ProRL does.

    >>> Stop(coefficient=0.25).values([Outcome(1.0, 100, 0, 100, True), Outcome(1.0, 50, 0, 100, False)])
    [0.25, 1.0]
    """

    coefficient: float = Field(0.0, ge=0, le=1)

    def values(self, group: Sequence[Outcome]) -> list[float]:
        return [self.coefficient if o.truncated else 1.0 for o in group]
