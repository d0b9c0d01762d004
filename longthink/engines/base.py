"""The interface of an engine: a stream of finished rollouts."""

from collections.abc import Iterator
from typing import Protocol

from longthink.model import Decoder
from longthink.types import Request, Rollout, RolloutId

__all__ = ["Engine", "Stream"]


class Stream(Protocol):
    """Requests in at any time, rollouts out as they end, in any order."""

    def submit(self, request: Request) -> None:
        """Queue a request; its prompt and the segments generated so far are the context."""
        ...

    def finished(self) -> Iterator[Rollout]:
        """Generate until nothing is queued, yielding each rollout when it ends. May be fed while iterated."""
        ...

    def abort(self, id: RolloutId) -> Rollout:
        """Take a request out and return what it has; its segments can be submitted again."""
        ...


class Engine(Stream, Protocol):
    """A stream that samples from weights it is given."""

    def advance(self) -> list[Rollout]:
        """One pass of the model: a token for each rollout that runs. Those that ended by it."""
        ...

    def abort_all(self) -> list[Rollout]:
        """Take everything out, as `abort` does one; what had ended and was not given out yet is among it."""
        ...

    def load(self, decoder: Decoder, version: int) -> None:
        """Sample from these weights from now on."""
        ...
