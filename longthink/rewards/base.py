"""The interface of a reward: one rollout in, one verdict out, no state between calls."""

from abc import abstractmethod
from typing import Any, Literal

from longthink.part import Part
from longthink.types import Verdict

__all__ = ["Reward", "answer_region"]


class Reward(Part):
    """A verifier. It runs in worker processes under a deadline; it need not defend against hanging itself."""

    deadline_s: float = 5.0

    def prepare(self) -> None:
        """Load what the first verdict would otherwise wait for; called once in each worker."""

    @abstractmethod
    def grade(self, response: str, gold: Any) -> Verdict:
        """The verdict on one complete response. Raises nothing for any response; a bad gold is `verifier_error`."""


def answer_region(response: str, think: Literal["required", "optional"]) -> str | None:
    """The text after the last `</think>`; without one the whole text if thinking is optional, else None.

    >>> answer_region("a </think> b </think> c", "required")
    ' c'
    """
    _, tag, tail = response.rpartition("</think>")
    if tag:
        return tail
    return response if think == "optional" else None
