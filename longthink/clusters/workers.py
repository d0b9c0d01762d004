"""What runs in the processes of a cluster: learner ranks, samplers, and how they answer calls."""

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from longthink.canary import digest, probe_request
from longthink.engines.base import Engine
from longthink.engines.embedded import EmbeddedEngine
from longthink.engines.teacher import TeacherEngine
from longthink.errors import LongthinkError
from longthink.folder import ModelFolder
from longthink.learners.local import LocalLearner, whole
from longthink.machine import keep_memory
from longthink.metrics import Sums
from longthink.model import Decoder, ModelConfig
from longthink.part import load_part
from longthink.recipe import Recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.base import Task
from longthink.types import Batch, Floats, Group, Ints, Rollout, Verdict

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["Rank", "Sampler", "SharedSum", "Weights", "find_store", "parameters_of", "scored_rows", "serve", "wide"]

PR_SET_PDEATHSIG = 1


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


class Rank:
    """A learner and the calls a step makes on it; without samplers in processes of their own it samples too."""

    def __init__(
        self, recipe: Recipe, rank: int, reduce: SharedSum | None, store: "TCPStore | None", weights: "Weights | None"
    ) -> None:
        torch.set_num_threads(recipe.cluster.threads)
        keep_memory()
        folder = ModelFolder(recipe.model.path)
        dtype, device = getattr(torch, recipe.model.dtype), recipe.model.device
        if device == "cuda" and recipe.cluster.learners > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
        self.tokenizer = folder.tokenizer
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
        self.weights, self._engines = weights, _engines(recipe, folder, dtype, device) if weights is None else None
        self.digests: dict[str, int] = {}  # of the weights that were put there last
        if weights is None:
            self.sync(0)

    def sync(self, version: int) -> None:
        """Make the sampler use the learner's weights, under this version number, or put them where samplers fetch them."""
        if self.weights is not None:
            self.digests = self.weights.put(self.learner.decoder, write=self.learner.rank == 0)
        elif self.learner.mesh is not None:
            from longthink.learners.sharded import gathered

            self.engine(True).load(gathered(self.learner.decoder), version)
        else:
            self.engine(True).load(self.learner.decoder, version)

    def engine(self, evaluating: bool) -> Engine:
        """The sampler for evaluation; for training what the recipe names."""
        assert self._engines is not None
        return self._engines[not evaluating]

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

    def probed(self, rollout: Rollout) -> Floats:
        """The log-probs of a probe's tokens, as the learner computes them; all ranks of a mesh take part, rank 0 has them."""
        batch = Batch.of([Group(rollout.problem, (rollout,), (Verdict(0.0, "ok"),), (0.0,))])
        return self.learner.token_logprobs(self.learner.decoder, batch, 1.0)[batch.loss_mask]

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


class Sampler:
    """An engine in a process of its own, with weights from memory it shares with the learner."""

    def __init__(self, recipe: Recipe, weights: "Weights", number: int) -> None:
        if recipe.model.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # vLLM takes a GPU where it sees one
        elif count := torch.cuda.device_count():  # the learner ranks have the first ones
            os.environ["CUDA_VISIBLE_DEVICES"] = str((recipe.cluster.learners + number) % count)
        torch.set_num_threads(recipe.cluster.threads)
        keep_memory()
        self.dtype, self.weights = getattr(torch, recipe.model.dtype), weights
        self._engines = _engines(recipe, ModelFolder(recipe.model.path), self.dtype, recipe.model.device)

    def load(self, version: int) -> None:
        """Fetch the weights that the learner has put there."""
        self._engines[0].load(self.weights.decoder(self.dtype), version)
        self.version = version

    def arrived(self) -> tuple[int, dict[str, int]]:
        """The version it samples from, and the digests of the weights it fetched."""
        return self.version, digest(self.weights.views())

    def probe(self) -> Rollout:
        """Its answer to the canary's probe."""
        engine = self._engines[0]
        engine.submit(probe_request(self.weights.config.vocab_size))
        (rollout,) = engine.finished()
        return rollout

    def engine(self, evaluating: bool) -> Engine:
        """The sampler for evaluation; for training what the recipe names."""
        return self._engines[not evaluating]

    def cpu_seconds(self) -> float:
        return time.process_time()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of master weights where matrices are multiplied in this one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Weights:
    """Room for a model's weights in memory that processes share, as wide as the learner's."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.config, self.shapes = config, [(name, p.shape) for name, p in _empty(config).named_parameters()]
        self.flat = torch.zeros(parameters_of(config), dtype=wide(dtype)).share_memory_()

    def views(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's name, and its place."""
        start = 0
        for name, shape in self.shapes:
            yield name, self.flat[start : start + shape.numel()].view(shape)
            start += shape.numel()

    @torch.no_grad()
    def put(self, decoder: Decoder, *, write: bool) -> dict[str, int]:
        """Copy a decoder's weights here; of a sharded one every rank must ask, and one of them writes and gives digests."""
        found: dict[str, int] = {}
        for (name, place), p in zip(self.views(), decoder.parameters(), strict=True):
            one = whole(p.detach())
            if write:
                found |= digest([(name, one)])
                place.copy_(one)
        return found

    def decoder(self, dtype: torch.dtype) -> Decoder:
        """A decoder whose parameters lie here."""
        decoder = _empty(self.config)
        for name, place in self.views():
            module, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(module), leaf, nn.Parameter(place, requires_grad=False))
        decoder.compute_dtype = dtype
        return decoder


def parameters_of(config: ModelConfig) -> int:
    """How many numbers a model's weights are."""
    return sum(p.numel() for p in _empty(config).parameters())


def _empty(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


def _engines(recipe: Recipe, folder: ModelFolder, dtype: torch.dtype, device: str) -> tuple[Engine, Engine]:
    """What samples, and what training samples from: another only where the task's own traces are learnt."""
    stop_ids, most, room = folder.tokenizer.stop_ids, recipe.engine.max_rows, recipe.engine.cache_gb
    sampler: Engine
    if recipe.engine.kind == "vllm":
        from longthink.engines.vllm import VllmEngine

        longest = folder.config.max_positions
        sampler = VllmEngine(folder.folder, dtype=dtype, stop_ids=stop_ids, longest=longest, max_rows=most, cache_gb=room)
    else:
        sampler = EmbeddedEngine(dtype=dtype, stop_ids=stop_ids, device=device, max_rows=most, cache_gb=room)
    if recipe.engine.kind != "teacher":
        return sampler, sampler
    return sampler, TeacherEngine({d.name: load_part(Task, d.task) for d in recipe.domains}, folder.tokenizer)


def serve(connection: Connection, make: Callable[[Callable[[], None]], "Rank | Sampler"]) -> None:
    """A process's life: answer calls on what `make` gives until the caller goes away; `make` gets a way to meet the others."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    me: list[Any] = []

    def meet() -> None:
        connection.send(("here", None))
        connection.recv()

    def answer(name: str, args: tuple[Any, ...]) -> Any:
        if name == "start":
            me.append(make(meet))
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
                _break_off()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception:  # the boundary of a process: the caller gets the whole story
                connection.send(("failed", traceback.format_exc()))
                _break_off()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _break_off() -> None:
    """A rank of a process group that has failed goes once its answer is sent: the others would wait for it otherwise."""
    if torch.distributed.is_initialized():
        os._exit(1)


def find_store(recipe: Recipe, port: int = 0) -> "TCPStore | None":
    """Where sharded ranks find each other: rank 0 opens it on any free port, the others ask there."""
    if not recipe.cluster.shard:
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("127.0.0.1", port, recipe.cluster.learners, not port, wait_for_workers=False)
