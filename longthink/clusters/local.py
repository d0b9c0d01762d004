"""Processes on this machine, asked over pipes."""

import contextlib
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from longthink.clusters.peers import opened
from longthink.clusters.weights import Weights
from longthink.clusters.workers import Make, serve
from longthink.errors import EngineError, WorkerLost
from longthink.model import ModelConfig

__all__ = ["LocalPeer", "LocalPlacement"]


class LocalPeer:
    """A process and the pipe to it."""

    def __init__(self, name: str, make: Make, patience_s: float, *, shard: bool) -> None:
        context = multiprocessing.get_context("forkserver")  # which imports what they need once
        sharding = ["longthink.learners.sharded", "torch._dynamo"] * shard  # which cutting a model up imports
        context.set_forkserver_preload(["longthink.clusters.workers", "transformers.tokenization_utils_tokenizers", *sharding])
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make, patience_s), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, name: str, *args: Any) -> None:
        self._send((name, args))

    def receive(self) -> Any:
        return opened(self.name, *self._receive())

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # what is left of its answers tells more
            self.connection.send(message)

    def _receive(self) -> tuple[str, Any]:
        try:
            answer: tuple[str, Any] = self.connection.recv()
            return answer
        except (EOFError, OSError):
            self.process.join(1.0)
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else "out of memory?"
            raise WorkerLost(f"{self.name} died ({how})") from None


class LocalPlacement:
    """Starts processes here."""

    address = "127.0.0.1"

    def __init__(self, patience_s: float, *, shard: bool) -> None:
        self._patience_s, self._shard = patience_s, shard
        self._started: list[LocalPeer] = []

    def start(self, name: str, make: Make) -> LocalPeer:
        peer = LocalPeer(name, make, self._patience_s, shard=self._shard)
        self._started.append(peer)
        return peer

    def wait(self, peers: Sequence[LocalPeer], timeout_s: float) -> list[LocalPeer]:
        by_connection: dict[Any, LocalPeer] = {peer.connection: peer for peer in peers}
        return [by_connection[connection] for connection in wait(list(by_connection), timeout_s)]

    def weights(self, config: ModelConfig, dtype: torch.dtype) -> Weights:
        return Weights(config, dtype)

    def meet(self) -> None:
        """Wait until every process has come this far, then let all go on."""
        for peer in self._started:
            if not peer.connection.poll(self._patience_s):
                raise WorkerLost(f"{peer.name} has not come to an update in {self._patience_s:g} s (its stacks are above)")
            kind, value = peer._receive()
            if kind != "here":
                opened(peer.name, kind, value)
                raise EngineError(f"{peer.name} took fewer updates than the others; this is a bug, start again with --resume")
        for peer in self._started:
            peer._send("go")

    def close(self) -> None:
        for peer in self._started:
            peer.kill()
        self._started = []
