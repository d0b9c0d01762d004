"""The interface of a part of the reward that is arithmetic: scores and lengths of a group in, one value a rollout out."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from longthink.part import Part

__all__ = ["Outcome", "Shape"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a rollout: its verifier's score, its length, the window it had, whether it met it, its calls of a tool."""

    score: float
    tokens: int
    characters: int
    window: int
    truncated: bool
    calls: int = 0
    failed: int = 0

    @property
    def right(self) -> bool:
        return self.score >= 1.0


class Shape(Part):
    """A part of the reward that needs no text; those that read the response are verifiers (longthink/rewards)."""

    @abstractmethod
    def values(self, group: Sequence[Outcome]) -> list[float]:
        """One value for each rollout of a group."""
