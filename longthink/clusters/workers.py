"""What runs in the processes of a cluster: learner ranks, samplers, and how they answer calls."""

import contextlib
import ctypes
import faulthandler
import os
import platform
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from longthink.canary import digest, probe_request
from longthink.clusters.weights import Weights
from longthink.engines.base import Engine
from longthink.engines.embedded import EmbeddedEngine
from longthink.engines.teacher import TeacherEngine, trace_calls
from longthink.errors import LongthinkError
from longthink.folder import ModelFolder, read_weights
from longthink.learners.adapter import plain
from longthink.learners.local import LocalLearner
from longthink.machine import keep_memory
from longthink.metrics import Sums
from longthink.model import Decoder
from longthink.part import load_part
from longthink.recipe import Recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.base import Task
from longthink.tools.formats import Watch
from longthink.types import Batch, Floats, Group, Ints, Request, Rollout, RolloutId, Verdict

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = [
    "Make",
    "Rank",
    "RemoteSampler",
    "Sampler",
    "SharedSum",
    "Worker",
    "find_store",
    "make_rank",
    "make_sampler",
    "scored_rows",
    "serve",
]

PR_SET_PDEATHSIG = 1
Make = Callable[[Callable[[], None]], "Rank | RemoteSampler"]  # given a way to meet the other ranks


def scored_rows(batch: Batch, rank: int, world: int) -> Ints:
    """The rows a rank scores."""
    return np.arange(rank, len(batch), world)


class SharedSum:
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


class Sampler:
    """The engines of a process, and what they have to do: rollouts of training, set aside while others are evaluated."""

    def __init__(self, recipe: Recipe, folder: ModelFolder, device: str, number: int = 0) -> None:
        self.dtype = getattr(torch, recipe.model.dtype)
        self._engines = _engines(recipe, folder, self.dtype, device, number)
        self._inside: dict[RolloutId, Request] = {}
        self._aside: dict[bool, list[Request]] = {False: [], True: []}
        self._over: dict[bool, list[Rollout]] = {False: [], True: []}  # ended while they were taken out
        self._evaluating = False

    def sample(self, evaluating: bool, requests: Sequence[Request], passes: int) -> list[Rollout]:
        """Take these requests in, and go on for at most so many passes; the rollouts that ended."""
        if evaluating != self._evaluating:
            self._set_aside()
            self._evaluating = evaluating
        engine, ended = self._engines[not evaluating], self._over[evaluating]
        self._over[evaluating] = []
        for request in (*self._aside[evaluating], *requests):
            engine.submit(request)
            self._inside[request.id] = request
        self._aside[evaluating] = []
        for _ in range(passes):
            if not self._inside:
                break
            for rollout in engine.advance():
                del self._inside[rollout.id]
                ended.append(rollout)
        return ended

    def forget(self) -> None:
        """Drop the rollouts of training."""
        self._set_aside()
        self._aside[False], self._over[False] = [], []

    def use(self, decoder: Decoder, version: int) -> None:
        """Sample from these weights from now on; what runs goes on with them where it is."""
        self._set_aside()
        self._engines[0].load(decoder, version)

    def probe(self, vocabulary: int) -> Rollout:
        """The answer to the canary's probe."""
        self._set_aside()
        self._engines[0].submit(probe_request(vocabulary))
        (rollout,) = self._engines[0].finished()
        return rollout

    def _set_aside(self) -> None:
        """Take out what runs, with what it has generated."""
        use = self._evaluating
        for rollout in self._engines[not use].abort_all():
            request = self._inside[rollout.id]
            if rollout.finish_reason == "aborted":
                self._aside[use].append(replace(request, segments=rollout.segments))
            else:
                self._over[use].append(rollout)
        self._inside = {}


class RemoteSampler(Sampler):
    """A sampler in a process of its own, with weights that the learner hands over."""

    def __init__(self, recipe: Recipe, weights: Weights, number: int) -> None:
        if recipe.model.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # vLLM takes a GPU where it sees one
        elif (count := torch.cuda.device_count()) > 1:  # the learner ranks have the first ones
            mine = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
            at = number % recipe.cluster.learners if recipe.engine.servers else recipe.cluster.learners + number
            os.environ["CUDA_VISIBLE_DEVICES"] = mine[at % count]  # a server has its own, and none twice for NCCL
        torch.set_num_threads(recipe.cluster.threads)
        keep_memory()
        super().__init__(recipe, ModelFolder(recipe.model.path), recipe.model.device, number)
        self.weights = weights

    def load(self, version: int, posted: Any) -> None:
        """Fetch the weights that the learner has put there."""
        self.weights.fetch(posted)
        self.use(self.weights.decoder(self.dtype), version)
        self.version = version

    def arrived(self) -> tuple[int, dict[str, int]]:
        """The version it samples from, and the digests of the weights it fetched."""
        return self.version, digest(self.weights.views())

    def cpu_seconds(self) -> float:
        return time.process_time()


class Rank:
    """A learner and the calls a step makes on it; without samplers in processes of their own it samples too."""

    def __init__(
        self, recipe: Recipe, rank: int, reduce: SharedSum | None, store: "TCPStore | None", weights: Weights | None
    ) -> None:
        torch.set_num_threads(recipe.cluster.threads)
        keep_memory()
        folder = ModelFolder(recipe.model.path)
        dtype, device = getattr(torch, recipe.model.dtype), recipe.model.device
        if device == "cuda" and recipe.cluster.learners > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
        mesh = None
        if store is not None:
            from longthink.learners.sharded import join

            mesh = join(rank, recipe.cluster.learners, device, store, recipe.cluster.patience_s)
        hollow = mesh is not None and recipe.lora is None  # then no rank reads more than a tensor at a time
        self.learner = LocalLearner(
            Decoder.hollow(folder.config) if hollow else folder.decoder(),
            recipe.learner,
            dtype=dtype,
            device=device,
            rank=rank,
            world=recipe.cluster.learners,
            reduce=reduce,
            mesh=mesh,
            reference_on_host=recipe.reference.on_host,
            lora=recipe.lora,
            seed=recipe.seed,
            base=recipe.model.path,
        )
        if hollow:
            read_weights(folder.folder, self.learner.decoder)
        self.weights, self.sampler = weights, Sampler(recipe, folder, device) if weights is None else None
        if weights is None:
            self.sync(0)

    def sync(self, version: int) -> tuple[dict[str, int], Any]:
        """Make the sampler here use the learner's weights, under this version number, or post them to samplers elsewhere.

        The digests of what was posted, and what tells samplers where; rank 0 has them.
        """
        decoder = self.learner.decoder
        if self.weights is not None:
            first = self.learner.rank == 0
            return self.weights.put(decoder, write=first), self.weights.post() if first else None
        assert self.sampler is not None
        self.sampler.use(plain(decoder), version)
        return {}, None

    def sample(self, evaluating: bool, requests: Sequence[Request], passes: int) -> list[Rollout]:
        assert self.sampler is not None
        return self.sampler.sample(evaluating, requests, passes)

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

    def probed(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """The log-probs of a probe's tokens as the learner computes them, and as it would in the dtype of its weights.

        All ranks of a mesh take part; rank 0 has them.
        """
        batch, decoder = Batch.of([Group(rollout.problem, (rollout,), (Verdict(0.0, "ok"),), (0.0,))]), self.learner.decoder
        narrow, wide, found = decoder.compute_dtype, next(decoder.parameters()).dtype, []
        for dtype in dict.fromkeys((narrow, wide)):
            decoder.compute_dtype = dtype
            found.append(self.learner.token_logprobs(decoder, batch, 1.0)[batch.loss_mask])
        decoder.compute_dtype = narrow
        return found[0], found[-1]

    def load(self, folder: Path, optimizer: bool) -> None:
        self.learner.load(folder, optimizer=optimizer)

    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    def cpu_seconds(self) -> float:
        return time.process_time()

    def kl_weight(self, loss: LossSettings) -> float:
        return self.learner.kl_weight(loss)

    def has_reference(self) -> bool:
        return self.learner.reference is not None

    def freeze_reference(self) -> None:
        self.learner.freeze_reference()

    def reset_optimizer(self) -> None:
        self.learner.reset_optimizer()


def make_rank(
    recipe: Recipe,
    rank: int,
    slots: torch.Tensor | None,
    store: tuple[str, int] | None,
    weights: Weights | None,
    meet: Callable[[], None],
) -> Rank:
    """A rank as its own process makes it."""
    reduce = None if slots is None else SharedSum(slots, rank, meet)
    found = find_store(store[0], recipe.cluster.learners, store[1]) if store else None
    return Rank(recipe, rank, reduce, found, weights)


def make_sampler(recipe: Recipe, weights: Weights, number: int, _: Callable[[], None]) -> RemoteSampler:
    """A sampler as its process makes it."""
    return RemoteSampler(recipe, weights, number)


def _engines(recipe: Recipe, folder: ModelFolder, dtype: torch.dtype, device: str, number: int) -> tuple[Engine, Engine]:
    """What samples, and what training samples from: another only where the task's own traces are learnt."""
    most, room = recipe.engine.max_rows, recipe.engine.cache_gb
    common: dict[str, Any] = {"dtype": dtype, "stop_ids": folder.tokenizer.stop_ids, "watch": Watch(folder.tokenizer)}
    sampler: Engine
    if recipe.engine.servers:
        from longthink.engines.vllm.server import VllmServer

        address, transfer, patience_s = recipe.engine.servers[number], recipe.engine.transfer, recipe.cluster.patience_s
        sampler = VllmServer(address, folder.config, **common, max_rows=most, transfer=transfer, patience_s=patience_s)
    elif recipe.engine.kind == "vllm":
        from longthink.engines.vllm.inside import VllmEngine

        longest = folder.config.max_positions
        sampler = VllmEngine(folder.folder, **common, longest=longest, max_rows=most, cache_gb=room)
    else:
        sampler = EmbeddedEngine(**common, device=device, max_rows=most, cache_gb=room)
    if recipe.engine.kind != "teacher":
        return sampler, sampler
    tasks = {d.name: load_part(Task, d.task) for d in recipe.domains}
    return sampler, TeacherEngine(tasks, folder.tokenizer, trace_calls(recipe))


def serve(connection: Connection, make: Make, patience_s: float) -> None:
    """A process's life: answer calls on what `make` gives until the caller goes away.

    Calls are read as they come, in a thread: a caller that writes never waits for one that is busy writing to it.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                calls.put(connection.recv())
        calls.put(None)

    def meet() -> None:
        connection.send(("here", None))
        if calls.get() is None:
            raise EOFError

    threading.Thread(target=read, daemon=True).start()
    worker = Worker(partial(make, meet), patience_s)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (call := calls.get()) is not None:
            kind, value = worker.answer(*call)
            connection.send((kind, value))
            if kind != "done" and torch.distributed.is_initialized():
                os._exit(1)  # the other ranks of the group would wait for it


class Worker:
    """What a process is there for, made by the first call, `start`. A call longer than `patience_s` shows where it stands."""

    def __init__(self, make: Callable[[], "Rank | RemoteSampler"], patience_s: float) -> None:
        self._make, self._patience_s = make, patience_s
        self._me: Rank | RemoteSampler | None = None

    def answer(self, name: str, args: tuple[Any, ...]) -> tuple[str, Any]:
        """What a call gives: done with a value, refused with an error of ours, or failed with a traceback."""
        faulthandler.dump_traceback_later(self._patience_s)
        try:
            if name == "start":
                self._me = self._make()
                return "done", (platform.node(), os.getpid())
            return "done", getattr(self._me, name)(*args)
        except LongthinkError as e:
            return "refused", e
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:  # the boundary of a process: the caller gets the whole story
            return "failed", traceback.format_exc()
        finally:
            faulthandler.cancel_dump_traceback_later()


def find_store(address: str, world: int, port: int = 0) -> "TCPStore":
    """Where sharded ranks find each other: one opens it on any free port of its address, the others ask there."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(address, port, world, not port, wait_for_workers=False)
