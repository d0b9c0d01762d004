"""The interface of a trigger: the history in, evidence or nothing out; pure."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from longthink.part import Part

__all__ = ["Rows", "Trigger"]

Rows = Sequence[Mapping[str, Any]]


class Trigger(Part):
    """Decides when a stage ends."""

    @abstractmethod
    def fires(self, rows: Rows) -> dict[str, Any] | None:
        """The numbers that end the stage, or None to go on. `rows` are the stage's metrics so far, oldest first."""
