"""Speed and memory of the engine and the learner on one GPU, for a random-weight model of DeepSeek-R1-Distill-Qwen-1.5B's shape.

`python benchmarks/gpu.py` prints one JSON object. Every context is measured at its end, where attention and
cache cost most: decoding the last tokens before it, and one update of sequences that fill it.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from limit import matrices, token_flops

from longthink.engines.embedded import EmbeddedEngine
from longthink.learners.local import LocalLearner
from longthink.model import Decoder, ModelConfig
from longthink.tables import LearnerSettings, LossSettings
from longthink.types import Batch, Problem, Request, RolloutId, Sampling

DISTILL_1_5B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
TINY = DISTILL_1_5B | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 1024,
}
PEAK_TFLOPS = {"H100": 989, "H200": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "L4": 121, "4090": 165}  # dense bf16


@dataclass(frozen=True)
class Plan:
    """What is run: `rows` sequences side by side, `decoded` tokens timed, `sequences` in the batch of an update."""

    device: str
    config: ModelConfig
    contexts: tuple[int, ...]
    rows: int
    decoded: int
    sequences: int
    cache_gb: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu.py", description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 24576])
    parser.add_argument("--rows", type=int, default=32, help="sequences decoded side by side")
    parser.add_argument("--sequences", type=int, default=8, help="sequences in the batch of an update")
    parser.add_argument("--cache-gb", type=float, default=32.0)
    parser.add_argument("--tiny-on-cpu", action="store_true", help=argparse.SUPPRESS)  # proves the code path, measures nothing
    args = parser.parse_args(argv)
    if args.tiny_on_cpu:
        plan = Plan("cpu", ModelConfig.from_dict(TINY), (64, 128), 4, 8, 2, 1.0)
    elif torch.cuda.is_available():
        config = ModelConfig.from_dict(DISTILL_1_5B)
        plan = Plan("cuda", config, tuple(args.contexts), args.rows, 128, args.sequences, args.cache_gb)
    else:
        print("gpu.py: torch sees no GPU on this machine; nothing was measured", file=sys.stderr)
        return 2
    print(json.dumps(measure(plan), indent=1))
    return 0


def measure(plan: Plan) -> dict[str, Any]:
    """Everything: the device, then decoding and training at every context."""
    decoder = Decoder(plan.config)
    decoder.init_weights(0)
    report: dict[str, Any] = device_facts(plan)
    engine = EmbeddedEngine(
        dtype=torch.bfloat16, stop_ids=frozenset(), device=plan.device, max_rows=plan.rows, cache_gb=plan.cache_gb
    )
    engine.load(decoder, 0)
    report["generation"] = [decode(plan, engine, context, report) for context in plan.contexts]
    del engine
    settings = LearnerSettings(lr=1e-6, checkpoint_layers=True, microbatch_tokens=max(plan.contexts))
    learner = LocalLearner(decoder, settings, dtype=torch.bfloat16, device=plan.device)
    report["training"] = [update(plan, learner, context, report) for context in plan.contexts]
    return report


def device_facts(plan: Plan) -> dict[str, Any]:
    """The device, the datasheet's peak where known, and the rate of a large bf16 product as the attainable one."""
    cuda = plan.device == "cuda"
    name, size = torch.cuda.get_device_name() if cuda else "cpu", 8192 if cuda else 256
    x = torch.randn(size, size, device=plan.device).to(torch.bfloat16)
    seconds = min(timed(plan, lambda: x @ x)[1] for _ in range(20))
    peak = next((tflops for key, tflops in PEAK_TFLOPS.items() if key in name), None)
    facts = {"device": name, "torch": torch.__version__, "peak_tflops": peak, "matmul_tflops": 2 * size**3 / seconds / 1e12}
    facts["parameters"] = sum(i * o for i, o in matrices(plan.config)) + (0 if plan.config.tied else embedding_size(plan.config))
    return facts


def embedding_size(c: ModelConfig) -> int:
    return c.vocab_size * c.hidden_size


def timed(plan: Plan, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns and the seconds it took, the device's queue included."""
    sync(plan)
    started = time.perf_counter()
    found = work()
    sync(plan)
    return found, time.perf_counter() - started


def sync(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.synchronize()


def shares(tokens_per_s: float, flops: float, report: dict[str, Any]) -> dict[str, float | None]:
    """Model FLOPs (recomputation not counted) as a share of the datasheet's peak and of the large product's rate."""
    tflops, peak = tokens_per_s * flops / 1e12, report["peak_tflops"]
    return {
        "tokens_per_s": tokens_per_s,
        "mfu": tflops / peak if peak else None,
        "share_of_matmul": tflops / report["matmul_tflops"],
    }


def peak_memory(plan: Plan) -> float:
    """GiB allocated at most since the last reset; on a CPU the process's largest size so far."""
    if plan.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def reset_memory(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def decode(plan: Plan, engine: EmbeddedEngine, context: int, report: dict[str, Any]) -> dict[str, Any]:
    """Prefill of distinct prompts, then the last `decoded` tokens before the context is full."""
    reset_memory(plan)
    prompt = context - plan.decoded - 1
    timed(plan, lambda: generate(plan, engine, prompt, 1))
    _, filled = timed(plan, lambda: generate(plan, engine, prompt, 1))
    _, whole = timed(plan, lambda: generate(plan, engine, prompt, 1 + plan.decoded))
    rate = plan.rows * plan.decoded / (whole - filled)
    found = {"context": context, "rows": plan.rows, **shares(rate, token_flops(plan.config, context), report)}
    return found | {"prefill_tokens_per_s": plan.rows * prompt / filled, "peak_memory_gib": peak_memory(plan)}


def generate(plan: Plan, engine: EmbeddedEngine, prompt: int, tokens: int) -> None:
    """`rows` requests with different prompts of this length, and so many tokens for each; nothing stops them early."""
    random = np.random.default_rng(0)
    for row in range(plan.rows):
        ids = random.integers(0, plan.config.vocab_size, prompt)
        engine.submit(Request(RolloutId(row, 0), Problem("random", (), None), ids, tokens, Sampling(), row))
    assert sum(r.num_tokens for r in engine.finished()) == plan.rows * tokens


def update(plan: Plan, learner: LocalLearner, context: int, report: dict[str, Any]) -> dict[str, Any]:
    """One optimizer step of sequences that fill the context, layers recomputed; the second one is timed."""
    reset_memory(plan)
    batch = random_batch(plan, context)
    timed(plan, lambda: learner.update(batch, LossSettings(), 1.0).means())
    _, seconds = timed(plan, lambda: learner.update(batch, LossSettings(), 1.0).means())
    found = shares(len(batch.tokens) / seconds, 3 * token_flops(plan.config, context / 2), report)
    return {"context": context, "sequences": plan.sequences, **found, "peak_memory_gib": peak_memory(plan)}


def random_batch(plan: Plan, context: int) -> Batch:
    """Random tokens with advantages of both signs; the old log-probs are those of a uniform distribution."""
    count, prompt = plan.sequences, context // 8
    mask = np.tile(np.arange(context) >= prompt, count)
    old = np.full(count * context, -np.log(plan.config.vocab_size), np.float32)
    return Batch(
        tokens=np.random.default_rng(0).integers(0, plan.config.vocab_size, count * context),
        offsets=np.arange(count + 1) * context,
        loss_mask=mask,
        sampler_logprobs=old,
        rewards=np.arange(count) % 2.0,
        group=np.zeros(count, np.int64),
        counted=np.ones(count, np.bool_),
        advantages=np.repeat(np.where(np.arange(count) % 2, 1.0, -1.0), context).astype(np.float32),
        old_logprobs=old,
    )


if __name__ == "__main__":
    sys.exit(main())
