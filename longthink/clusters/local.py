"""Replicas on one machine: each process holds a learner and a sampler; the work of a step is shared among them.

No algorithm lives here. Rank 0 is the caller's own process; the others are started at once and answer calls
over pipes. Every rank makes the same calls in the same order and takes the same optimizer steps, so weights
are copied nowhere: the replicas stay bitwise equal.
"""

import ctypes
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from longthink.engines.base import Engine
from longthink.engines.embedded import EmbeddedEngine
from longthink.engines.teacher import TeacherEngine
from longthink.errors import EngineError, LongthinkError
from longthink.folder import ModelFolder
from longthink.learners.local import LocalLearner
from longthink.machine import keep_memory
from longthink.metrics import Sums
from longthink.part import load_part
from longthink.recipe import Recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.base import Task
from longthink.types import Batch, Floats, Ints, Request, Rollout, RolloutId

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["LocalCluster"]

PR_SET_PDEATHSIG = 1


def scored_rows(batch: Batch, rank: int, world: int) -> Ints:
    """The rows a rank scores."""
    return np.arange(rank, len(batch), world)


class _SharedSum:
    """Adds gradients across ranks through shared memory, in rank order, so every rank gets the same bits.

    `meet` returns once every rank has called it; it goes over the ranks' pipes, where a death shows.
    """

    def __init__(self, slots: Tensor, rank: int, meet: Callable[[], None]) -> None:
        self.slots, self.rank, self.meet = slots, rank, meet

    def __call__(self, gradients: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._views(self.slots[self.rank], gradients)), gradients)
        self.meet()
        total = self.slots.sum(dim=0)
        self.meet()
        torch._foreach_copy_(gradients, list(self._views(total, gradients)))

    @staticmethod
    def _views(flat: Tensor, like: list[Tensor]) -> Iterator[Tensor]:
        start = 0
        for t in like:
            yield flat[start : start + t.numel()].view_as(t)
            start += t.numel()


class _Rank:
    """One replica: its learner, its sampler and the calls a step makes on them."""

    def __init__(self, recipe: Recipe, rank: int, reduce: _SharedSum | None, store: "TCPStore | None") -> None:
        torch.set_num_threads(recipe.cluster.threads)
        keep_memory()
        folder = ModelFolder(recipe.model.path)
        dtype, device = getattr(torch, recipe.model.dtype), recipe.model.device
        if device == "cuda" and recipe.cluster.learners > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
        self.tokenizer = folder.tokenizer
        self.version = 0
        mesh = None
        if store is not None:
            from longthink.learners.sharded import join

            mesh = join(rank, recipe.cluster.learners, device, store)
        self.learner = LocalLearner(
            folder.decoder(),
            recipe.learner,
            dtype=dtype,
            device=device,
            rank=rank,
            world=recipe.cluster.learners,
            reduce=reduce,
            mesh=mesh,
        )
        sampler = EmbeddedEngine(
            dtype=dtype,
            stop_ids=folder.tokenizer.stop_ids,
            device=device,
            max_rows=recipe.engine.max_rows,
            cache_gb=recipe.engine.cache_gb,
        )
        self.sampler: Engine = sampler
        self.source: Engine = sampler
        if recipe.engine.kind == "teacher":
            self.source = TeacherEngine({d.name: load_part(Task, d.task) for d in recipe.domains}, folder.tokenizer)
        self.sync(0)

    def sync(self, version: int) -> None:
        """Make the sampler use the learner's weights, under this version number."""
        self.version = version
        if self.learner.mesh is not None:
            from longthink.learners.sharded import gathered

            self.sampler.load(gathered(self.learner.decoder), version)
        else:
            self.sampler.load(self.learner.decoder, version)

    def engine(self, evaluating: bool) -> Engine:
        """The sampler for evaluation; for training what the recipe names."""
        return self.sampler if evaluating else self.source

    def update(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings) -> Sums:
        return self.learner.update(batch, loss, temperature, settings).settle()

    def logprobs(
        self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings | None
    ) -> dict[str, Floats]:
        """Those of this rank's share of the rows, by name."""
        mine = batch.tokens_of(scored_rows(batch, self.learner.rank, self.learner.world))
        found = self.learner.logprobs(batch, loss, temperature, settings)
        arrays = {"old_logprobs": found.old_logprobs, "reference_logprobs": found.reference_logprobs}
        return {name: array[mine] for name, array in arrays.items() if array is not None}

    def load(self, folder: Path, optimizer: bool) -> None:
        self.learner.load(folder, optimizer=optimizer)

    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    def cpu_seconds(self) -> float:
        return time.process_time()

    def freeze_reference(self) -> None:
        self.learner.freeze_reference()

    def reset_optimizer(self) -> None:
        self.learner.reset_optimizer()


def _serve(connection: Connection, recipe: Recipe, rank: int, slots: Tensor | None, port: int) -> None:
    """A peer's life: answer calls until the caller goes away."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    me: list[_Rank] = []

    def meet() -> None:
        connection.send(("here", None))
        connection.recv()

    def answer(name: str, args: tuple[Any, ...]) -> Any:
        if name == "start":
            reduce = None if slots is None else _SharedSum(slots, rank, meet)
            me.append(_Rank(recipe, rank, reduce, _store(recipe, port)))
            return None
        if name != "sample":
            return getattr(me[0], name)(*args)
        evaluating, requests = args
        engine = me[0].engine(evaluating)
        for request in requests:
            engine.submit(request)
        for rollout in engine.finished():
            connection.send(("rollout", rollout))
        return None

    while True:
        try:
            name, args = connection.recv()
            try:
                connection.send(("done", answer(name, args)))
            except LongthinkError as e:
                connection.send(("refused", e))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception:  # the boundary of a process: the caller gets the whole story
                connection.send(("failed", traceback.format_exc()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _store(recipe: Recipe, port: int = 0) -> "TCPStore | None":
    """Where sharded ranks find each other: rank 0 opens it on any free port, the others on that one."""
    if not recipe.cluster.shard:
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("127.0.0.1", port, recipe.cluster.learners, not port, wait_for_workers=False)


class LocalCluster:
    """The ranks as one engine and one learner. A recipe with one process starts no other."""

    def __init__(self, recipe: Recipe) -> None:
        self.world = recipe.cluster.learners
        self._peers: list[tuple[Any, Connection]] = []
        self._waiting: list[Request] = []
        self.evaluating = False
        self._sharded, reduce, slots = recipe.cluster.shard, None, None
        store = _store(recipe)
        if self.world > 1:
            context = multiprocessing.get_context("spawn")
            if not self._sharded:
                size = sum(p.numel() for p in ModelFolder(recipe.model.path).decoder().parameters())
                wide = torch.float64 if recipe.model.dtype == "float64" else torch.float32
                slots = torch.zeros(self.world, size, dtype=wide).share_memory_()
                reduce = _SharedSum(slots, 0, self._meet)
            for rank in range(1, self.world):
                mine, theirs = context.Pipe()
                port = store.port if store else 0
                process = context.Process(target=_serve, args=(theirs, recipe, rank, slots, port), daemon=True)
                process.start()
                theirs.close()
                self._peers.append((process, mine))
        try:
            self._send("start")
            self._me = _Rank(recipe, 0, reduce, store)
            self._gather()
        except BaseException:
            self.close()
            raise
        self.learner, self.tokenizer = self._me.learner, self._me.tokenizer

    # -- calls --------------------------------------------------------------------------------------------------

    def _send_to(self, rank: int, message: Any) -> None:
        try:
            self._peers[rank - 1][1].send(message)
        except OSError:
            raise EngineError(f"replica {rank} is gone (killed?); start again with --resume") from None

    def _send(self, name: str, *args: Any) -> None:
        for rank in range(1, self.world):
            self._send_to(rank, (name, args))

    def _meet(self) -> None:
        """Wait until every peer has come this far, then let all go on."""
        for rank, (_, connection) in enumerate(self._peers, 1):
            self._receive(rank, connection)
        for rank in range(1, self.world):
            self._send_to(rank, "go")

    def _receive(self, rank: int, connection: Connection) -> tuple[str, Any]:
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            raise EngineError(
                f"replica {rank} died (out of memory?); start again with --resume, or fewer cluster.learners"
            ) from None
        if kind == "refused":
            raise value
        if kind == "failed":
            raise EngineError(f"replica {rank} failed:\n{value}")
        return kind, value

    def _gather(self) -> list[Any]:
        return [self._receive(rank, connection)[1] for rank, (_, connection) in enumerate(self._peers, 1)]

    def _call(self, name: str, *args: Any) -> list[Any]:
        """Every rank's answer, in rank order. An error of this rank leaves the others waiting: the cluster is over."""
        self._send(name, *args)
        return [getattr(self._me, name)(*args), *self._gather()]

    def cpu_seconds(self) -> float:
        """CPU time all ranks have used so far."""
        return float(sum(self._call("cpu_seconds")))

    def close(self) -> None:
        """End the peers."""
        for process, connection in self._peers:
            connection.close()
            process.kill()
            process.join()
        self._peers = []
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
        """Sample from the learner's weights from now on, under this version."""
        self._call("sync", version)

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
        for index, request in enumerate(self._waiting):
            if request.id == id:
                return EmbeddedEngine.ended(self._waiting.pop(index), "aborted", request.segments)
        return self._me.engine(self.evaluating).abort(id)

    def finished(self) -> Iterator[Rollout]:
        """All ranks' rollouts as they end, round by round.

        A request submitted while a round runs joins the next one: what a rank samples side by side then never
        depends on timing. A group's requests share a rank.
        """
        while self._waiting:
            requests, self._waiting = self._waiting, []
            for rank in range(1, self.world):
                share = [r for r in requests if r.id.group % self.world == rank]
                self._send_to(rank, ("sample", (self.evaluating, share)))
            engine = self._me.engine(self.evaluating)
            for request in requests:
                if request.id.group % self.world == 0:
                    engine.submit(request)
            open_ranks = {connection: rank for rank, (_, connection) in enumerate(self._peers, 1)}
            for rollout in engine.finished():
                yield rollout
                yield from self._arrived(open_ranks, timeout=0)
            while open_ranks:
                yield from self._arrived(open_ranks, timeout=None)

    def _arrived(self, open_ranks: dict[Connection, int], timeout: float | None) -> Iterator[Rollout]:
        for connection in wait(list(open_ranks), timeout) if open_ranks else []:
            assert isinstance(connection, Connection)
            kind, value = self._receive(open_ranks[connection], connection)
            if kind == "done":
                del open_ranks[connection]
            else:
                yield value
