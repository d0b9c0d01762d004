"""What the controller knows of a process that answers calls, wherever it runs, and of who starts it."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from longthink.clusters.weights import Weights
from longthink.clusters.workers import Make, Rank
from longthink.errors import EngineError
from longthink.model import ModelConfig

__all__ = ["Inline", "Peer", "Placement", "opened"]


class Peer(Protocol):
    """Something that answers calls in the order they are sent."""

    def send(self, name: str, *args: Any) -> None:
        """Ask; a peer that is gone says so when it should answer."""
        ...

    def receive(self) -> Any:
        """The answer to the oldest call. Raises: WorkerLost, or what the call raised there."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Placement(Protocol):
    """Who starts processes, and where."""

    address: str  # where the others reach the controller

    def start(self, name: str, make: Make) -> Peer:
        """A process that will make what it is there for when it is sent `start`."""
        ...

    def wait(self, peers: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have an answer, or are lost; none after so many seconds."""
        ...

    def weights(self, config: ModelConfig, dtype: torch.dtype) -> Weights:
        """A way for weights from the learner to the samplers."""
        ...

    def close(self) -> None: ...


class Inline:
    """A rank in the controller's own process: a call runs when its answer is asked for."""

    def __init__(self) -> None:
        self.rank: Rank | None = None
        self._calls: deque[tuple[str, tuple[Any, ...]]] = deque()

    def send(self, name: str, *args: Any) -> None:
        self._calls.append((name, args))

    def receive(self) -> Any:
        name, args = self._calls.popleft()
        return getattr(self.rank, name)(*args)

    def kill(self) -> None:
        self.rank = None


def opened(name: str, kind: str, value: Any) -> Any:
    """The value of an answer. Raises: what was refused; EngineError with the traceback of what failed."""
    if kind == "refused":
        raise value
    if kind == "failed":
        raise EngineError(f"{name} failed:\n{value}")
    return value
