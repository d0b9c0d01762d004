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
from longthink.types import Request, Rollout, RolloutId

__all__ = ["LATE", "Due", "Inline", "Peer", "Place", "Placement", "opened"]

APART = 2  # slices from the one that ended with a call to the one in which its rollout goes on
LATE = -1  # in place of such a slice: the others did not wait


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
        self.asked = self.taken = self.losses = 0  # slices, asked for and answered; losses since it has ended a rollout
        self.since = time.monotonic()  # of the oldest call it owes an answer to
        self.fresh: dict[bool, list[Request]] = {False: [], True: []}  # not handed over yet
        self.open: dict[bool, dict[RolloutId, Request]] = {False: {}, True: {}}
        self.calling: dict[bool, dict[RolloutId, int]] = {False: {}, True: {}}  # and the slice they go on in; LATE: the last

    @property
    def slices(self) -> int:
        """Slices it owes."""
        return self.asked - self.taken

    def busy(self, use: bool) -> bool:
        """Whether it has rollouts of this use."""
        return bool(self.fresh[use] or self.open[use] or self.calling[use])

    def hand_over(self, use: bool) -> list[Request]:
        """What it is given with the next slice."""
        fresh, self.fresh[use] = self.fresh[use], []
        self.open[use] |= {request.id: request for request in fresh}
        self.asked += 1
        return fresh

    def take(self, use: bool, rollouts: Sequence[Rollout]) -> list[tuple[Request, Rollout]]:
        """What it ended in a slice; those that call a tool stay its own."""
        self.taken += 1
        ended = [(self.open[use].pop(rollout.id), rollout) for rollout in rollouts]
        self.calling[use] |= {r.id: self.taken + APART for _, r in ended if r.finish_reason == "call"}
        self.losses = 0 if ended else self.losses
        return ended

    def returning(self, use: bool) -> list[RolloutId]:
        """The rollouts that go on in the next slice, if their calls have ended; the late ones once nothing else is left."""
        calling = self.calling[use]
        if self.alone(use):
            return sorted(calling)
        return sorted(id for id, slice_ in calling.items() if slice_ != LATE and slice_ <= self.asked + 1)

    def alone(self, use: bool) -> bool:
        """Whether late rollouts are all it has."""
        return not (self.fresh[use] or self.open[use]) and set(self.calling[use].values()) == {LATE}

    def go_on(self, use: bool, ids: Sequence[RolloutId], requests: Sequence[Request]) -> None:
        """The calls of these have ended; for those that are not over by that there are requests."""
        for id in ids:
            del self.calling[use][id]
        self.fresh[use] += requests

    def forget(self, use: bool) -> None:
        """Drop its rollouts of this use."""
        self.fresh[use], self.open[use], self.calling[use] = [], {}, {}

    def begin_again(self, peer: Peer) -> deque[Due]:
        """Another process has taken it, and has nothing yet; what the one before owed."""
        self.peer, owed, self.due, self.taken = peer, self.due, deque(), self.asked
        for use in (False, True):
            self.fresh[use] = [*self.open[use].values(), *self.fresh[use]]
            self.open[use] = {}
        return owed


def opened(name: str, kind: str, value: Any) -> Any:
    """The value of an answer. Raises: what was refused; EngineError with the traceback of what failed."""
    if kind == "refused":
        raise value
    if kind == "failed":
        raise EngineError(f"{name} failed:\n{value}")
    if kind != "done":
        raise EngineError(f"{name} said {kind!r} where an answer was due; this is a bug, go on with --resume")
    return value
