"""What the controller knows of a process that answers calls, wherever it runs, and of who starts it."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from longthink.clusters.weights import Weights
from longthink.clusters.workers import Make, Rank
from longthink.errors import EngineError
from longthink.model import ModelConfig
from longthink.types import Request, RolloutId

__all__ = ["Due", "Inline", "Peer", "Place", "Placement", "opened"]


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


class Due(NamedTuple):
    """A call that a worker has not answered, and who takes the answer."""

    take: Callable[[Any], object]
    name: str
    args: tuple[Any, ...]


class Place:
    """A worker's place: the process that fills it now, what it owes, and the rollouts it has, of training and of evaluation."""

    def __init__(self, name: str, make: Make, peer: Peer) -> None:
        self.name, self.make, self.peer = name, make, peer
        self.where = ("", 0)  # its machine and process id
        self.due: deque[Due] = deque()
        self.slices = self.losses = 0  # losses since it has ended a rollout
        self.since = time.monotonic()  # of the oldest call it owes an answer to
        self.fresh: dict[bool, list[Request]] = {False: [], True: []}  # not handed over yet
        self.open: dict[bool, dict[RolloutId, Request]] = {False: {}, True: {}}


def opened(name: str, kind: str, value: Any) -> Any:
    """The value of an answer. Raises: what was refused; EngineError with the traceback of what failed."""
    if kind == "refused":
        raise value
    if kind == "failed":
        raise EngineError(f"{name} failed:\n{value}")
    if kind != "done":
        raise EngineError(f"{name} said {kind!r} where an answer was due; this is a bug, go on with --resume")
    return value
