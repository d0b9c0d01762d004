"""vLLM in this process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longthink.engines.cache import SlotCache
from longthink.engines.vllm.stream import VllmStream, check_dtype, check_version
from longthink.errors import EngineError
from longthink.folder import read_config
from longthink.tools.formats import Watch
from longthink.types import FinishReason, Rollout

__all__ = ["VllmEngine", "empty_cache", "pack_head"]

QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler in this process: weights are handed over by reference
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
PREFILL_TOKENS = 8192


class VllmEngine(VllmStream):
    """`folder` gives the model's shape and first weights; `load` puts others in their place.

    At most `max_rows` rollouts run side by side, with `cache_gb` of keys and values; no rollout is longer than `longest`.
    Raises: EngineError where vLLM is missing, of another version, or refuses the model.
    """

    limit = "engine.cache_gb has room for {}"

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        stop_ids: frozenset[int],
        longest: int,
        max_rows: int = 256,
        cache_gb: float = 8.0,
        watch: Watch | None = None,
    ) -> None:
        check_version()
        check_dtype(dtype)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(cache_gb)))
        from vllm import LLM

        config = read_config(folder)
        longest = min(longest, int(cache_gb * 2**30) // SlotCache.bytes_per_token(config, dtype))  # one has to fit
        super().__init__(config, stop_ids, longest, watch)
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

    def _put(self, named: Sequence[tuple[str, Tensor]], version: int) -> None:
        self.llm.collective_rpc(_reload, args=(named, self._broken))
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM keeps keys and values of the weights before; nothing may be sampled from them")

    def _begin(self, name: str, context: list[int], params: dict[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        asked = SamplingParams(**params, output_kind=RequestOutputKind.DELTA)
        self.engine.add_request(name, {"prompt_token_ids": context}, asked)

    def _step(self) -> None:
        """One step of vLLM: a token for each that runs."""
        for output in self.engine.step():
            (delta,) = output.outputs
            logprobs = [at[token].logprob for token, at in zip(delta.token_ids, delta.logprobs, strict=True)]
            ended: FinishReason = "stop" if delta.finish_reason == "stop" else "length"
            self._drawn(output.request_id, delta.token_ids, logprobs, ended if output.finished else None)

    def _cancel(self, name: str) -> Rollout:
        self.engine.abort_request([name])
        return self._rollout(self._running.pop(name), "aborted")

    def _drop(self) -> None:
        self.engine.abort_request(list(self._running))


def _reload(worker: Any, named: Sequence[tuple[str, Tensor]], broken: bool) -> None:
    """Runs in vLLM's worker: layer by layer, so that what it packs for its kernels is packed anew.

    After `broken` weights the cache holds values that are not finite, and 0 times one of them is not 0: it is emptied.
    """
    if broken:
        empty_cache(worker.vllm_config)
    worker.model_runner.reload_weights(weights_iterator=iter(named))
    pack_head(worker.model_runner.get_model())


def empty_cache(config: Any) -> None:
    """Put zeros for all keys and values."""
    for layer in config.compilation_config.static_forward_context.values():
        caches = getattr(layer, "kv_cache", ())
        for cache in [caches] if isinstance(caches, Tensor) else caches:
            cache.zero_()


def pack_head(model: Any) -> None:
    """On a CPU a head that is tied to the embedding keeps the packed copy of the weights it began with: pack it again."""
    head: Any = getattr(model, "lm_head", None)
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
