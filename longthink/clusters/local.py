"""Processes on one machine: learner ranks that share an update, and samplers, in the ranks or in processes of their own.

No algorithm lives here. Rank 0 is the caller's own process; the others are started at once and answer calls over pipes. Every
rank makes the same calls in the same order. Replicas take the same optimizer steps and stay bitwise equal, sharded ranks hold a
part each; samplers of their own fetch weights from memory that rank 0 writes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing as multiprocessing

from longthink.canary import TOLERANCE, misplaced, misused
from longthink.clusters.workers import Rank, Sampler, SharedSum, Weights, find_store, parameters_of, scored_rows, serve, wide
from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError
from longthink.folder import ModelFolder
from longthink.metrics import Sums
from longthink.recipe import Recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.types import Batch, Floats, Request, Rollout, RolloutId

__all__ = ["LocalCluster"]


class Peer(NamedTuple):
    """Another process, and the pipe to it."""

    name: str
    process: Any
    connection: Connection

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            raise EngineError(f"{self.name} is gone (killed?); start again with --resume") from None

    def receive(self) -> tuple[str, Any]:
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            raise EngineError(f"{self.name} died (out of memory?); start again with --resume") from None
        if kind == "refused":
            raise value
        if kind == "failed":
            raise EngineError(f"{self.name} failed:\n{value}")
        return kind, value


def _rank(
    recipe: Recipe, rank: int, slots: torch.Tensor | None, port: int, weights: Weights | None, meet: Callable[[], None]
) -> Rank:
    """A rank as its own process makes it."""
    reduce = None if slots is None else SharedSum(slots, rank, meet)
    return Rank(recipe, rank, reduce, find_store(recipe, port), weights)


def _sampler(recipe: Recipe, weights: Weights, number: int, _: Callable[[], None]) -> Sampler:
    return Sampler(recipe, weights, number)


class LocalCluster:
    """The ranks as one engine and one learner. A recipe with one process starts no other."""

    def __init__(self, recipe: Recipe) -> None:
        self.world, self._sharded = recipe.cluster.learners, recipe.cluster.shard
        self._peers: list[Peer] = []
        self._samplers: list[Peer] = []
        self._waiting: list[Request] = []
        self.evaluating = False
        self.tries, self.gap, self.resyncs = recipe.cluster.resyncs, 0.0, 0
        dtype, config = getattr(torch, recipe.model.dtype), ModelFolder(recipe.model.path).config
        weights = Weights(config, dtype) if recipe.cluster.samplers else None
        store, slots = find_store(recipe), None
        if self.world > 1 and not self._sharded:
            slots = torch.zeros(self.world, parameters_of(config), dtype=wide(dtype)).share_memory_()
        port = store.port if store else 0
        try:
            for rank in range(1, self.world):
                self._peers.append(_started(f"replica {rank}", partial(_rank, recipe, rank, slots, port, weights)))
            for number in range(recipe.cluster.samplers):
                assert weights is not None
                self._samplers.append(_started(f"sampler {number}", partial(_sampler, recipe, weights, number)))
            for peer in (*self._peers, *self._samplers):
                peer.send(("start", ()))
            self._me = Rank(recipe, 0, None if slots is None else SharedSum(slots, 0, self._meet), store, weights)
            self._gather()
            self._ask_samplers()
            if self._samplers:
                self.sync(0)
        except BaseException:
            self.close()
            raise
        self.learner, self.tokenizer = self._me.learner, self._me.tokenizer

    # -- calls --------------------------------------------------------------------------------------------------

    def _send(self, name: str, *args: Any) -> None:
        for peer in self._peers:
            peer.send((name, args))

    def _meet(self) -> None:
        """Wait until every rank has come this far, then let all go on."""
        for peer in self._peers:
            if peer.receive()[0] != "here":
                raise EngineError(f"{peer.name} took fewer updates than the others; this is a bug, start again with --resume")
        for peer in self._peers:
            peer.send("go")

    def _gather(self) -> list[Any]:
        return [peer.receive()[1] for peer in self._peers]

    def _call(self, name: str, *args: Any) -> list[Any]:
        """Every rank's answer, in rank order. An error of this rank leaves the others waiting: the cluster is over."""
        self._send(name, *args)
        try:
            mine = getattr(self._me, name)(*args)
        except RuntimeError:  # of the process group: another rank has failed, or was killed
            for peer in self._peers if self._sharded else ():
                if peer.connection.poll(1.0):
                    peer.receive()  # raises what it has to say
            raise
        return [mine, *self._gather()]

    def _ask_samplers(self, name: str = "", *args: Any) -> list[Any]:
        """Every sampler's answer to a call, or to the one that is out."""
        for peer in self._samplers if name else ():
            peer.send((name, args))
        return [peer.receive()[1] for peer in self._samplers]

    def cpu_seconds(self) -> float:
        """CPU time all processes have used so far."""
        return float(sum([*self._call("cpu_seconds"), *self._ask_samplers("cpu_seconds")]))

    def close(self) -> None:
        """End the other processes."""
        for peer in (*self._peers, *self._samplers):
            peer.connection.close()
            peer.process.kill()
            peer.process.join()
        self._peers, self._samplers = [], []
        if self._sharded:
            from longthink.learners.sharded import leave

            leave()

    # -- the learner's side -------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings | None = None) -> Batch:
        """The batch with the log-probs its loss needs (longthink/learners/local.py), each rank computing a share."""
        if not loss.kl and loss.old_logprobs == "sampler":
            return batch.with_(old_logprobs=batch.sampler_logprobs)
        whole: dict[str, Floats] = {}
        for rank, part in enumerate(self._call("logprobs", batch, loss, temperature, settings)):
            for name, array in part.items():
                found = whole.setdefault(name, np.zeros_like(batch.sampler_logprobs))
                found[batch.tokens_of(scored_rows(batch, rank, self.world))] = array
        return batch.with_(**whole)

    def update(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings) -> Sums:
        """Take the updates of a batch on every rank; the metrics of all."""
        first, *others = self._call("update", batch, loss, temperature, settings)
        for sums in others:
            first.merge(sums)
        return first  # type: ignore[no-any-return]

    def sync(self, version: int) -> None:
        """Sample from the learner's weights from now on, under this version.

        Samplers in processes of their own are asked what they have (canary.py) before anything is sampled. Where it is not what
        the learner has they are given it again. The largest gap of a log-prob is in `gap`, and how often it was given again in
        `resyncs`. Raises: EngineError when that does not help either.
        """
        self.resyncs, failures = 0, [""]
        while failures:
            self._call("sync", version)
            self._ask_samplers("load", version)
            failures = self._mismatches(version)
            if failures and self.resyncs == self.tries:
                raise EngineError(
                    f"{'; '.join(failures)}. Given the weights {self.tries + 1} times in all; nothing was sampled from them. "
                    "Start again with --resume; if it happens again, look for a broken machine or another build of the engine"
                )
            self.resyncs += bool(failures)

    def _mismatches(self, version: int) -> list[str]:
        """What the canary finds: a sentence for each sampler that has not what the learner has."""
        self.gap, tolerance = 0.0, TOLERANCE[self._me.learner.decoder.compute_dtype]
        own = self._me.digests
        arrived = [misplaced(there, digests, version, own) for there, digests in self._ask_samplers("arrived")]
        for at, rollout in enumerate([] if any(arrived) else self._ask_samplers("probe")):
            gap, arrived[at] = misused(rollout, version, self._call("probed", rollout)[0], tolerance)
            self.gap = max(self.gap, gap)
        return [f"{peer.name}: {why}" for peer, why in zip(self._samplers, arrived, strict=True) if why]

    def load(self, folder: Path, *, optimizer: bool) -> None:
        """Load weights, and with `optimizer` the whole learner, from a checkpoint on every rank."""
        self._call("load", folder, optimizer)

    def freeze_reference(self) -> None:
        self._call("freeze_reference")

    def reset_optimizer(self) -> None:
        self._call("reset_optimizer")

    def save(self, folder: Path) -> None:
        """Write the learner; sharded ranks write a part each."""
        if self._sharded:
            self._call("save", folder)
        else:
            self.learner.save(folder)

    # -- the engine's side --------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def abort(self, id: RolloutId) -> Rollout:
        """Take out a request that waits here, or that this process samples."""
        for index, request in enumerate(self._waiting):
            if request.id == id:
                return EmbeddedEngine.ended(self._waiting.pop(index), "aborted", request.segments)
        if self._samplers:
            raise EngineError(f"rollout {tuple(id)} is with a sampler or was never submitted")
        return self._me.engine(self.evaluating).abort(id)

    def finished(self) -> Iterator[Rollout]:
        """All rollouts as they end, round by round.

        A request submitted while a round runs joins the next one: what a process samples side by side then never
        depends on timing. A group's requests share a process.
        """
        hosts: list[Peer | None] = [*self._samplers] or [None, *self._peers]  # None: this process
        while self._waiting:
            requests, self._waiting = self._waiting, []
            shares = [[r for r in requests if r.id.group % len(hosts) == place] for place in range(len(hosts))]
            open_hosts: dict[Connection, Peer] = {}
            for host, share in zip(hosts, shares, strict=True):
                if host is not None:
                    host.send(("sample", (self.evaluating, share)))
                    open_hosts[host.connection] = host
            if None in hosts:
                engine = self._me.engine(self.evaluating)
                for request in shares[0]:
                    engine.submit(request)
                for rollout in engine.finished():
                    yield rollout
                    yield from self._arrived(open_hosts, timeout=0)
            while open_hosts:
                yield from self._arrived(open_hosts, timeout=None)

    def _arrived(self, open_hosts: dict[Connection, Peer], timeout: float | None) -> Iterator[Rollout]:
        for connection in wait(list(open_hosts), timeout) if open_hosts else []:
            assert isinstance(connection, Connection)
            kind, value = open_hosts[connection].receive()
            if kind == "done":
                del open_hosts[connection]
            else:
                yield value


def _started(name: str, make: Callable[[Callable[[], None]], Rank | Sampler]) -> Peer:
    """A process that will answer for what `make` gives there."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, make), daemon=True)
    process.start()
    theirs.close()
    return Peer(name, process, mine)
