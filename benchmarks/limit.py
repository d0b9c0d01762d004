"""The physical limit on this core: how fast it multiplies at the model's shapes, and what a token costs."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from longthink.model import ModelConfig
from longthink.recipe import Recipe

Shape = tuple[int, int, int]  # rows, inputs, outputs


def matrices(c: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of every matrix a token meets, q/k/v and gate/up joined."""
    heads, qkv = c.num_heads * c.head_dim, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    h, inner = c.hidden_size, c.intermediate_size
    layer = [(h, qkv), (heads, h), (h, 2 * inner), (inner, h)]
    return layer * c.num_layers + [(h, c.vocab_size)]


def token_flops(c: ModelConfig, context: float) -> float:
    """FLOPs of one token's forward pass with so many tokens before it; training costs three times that."""
    weights = sum(2 * inputs * outputs for inputs, outputs in matrices(c))
    return weights + c.num_layers * c.num_heads * c.head_dim * 4 * context


def matmul_rates(c: ModelConfig, dtype: torch.dtype, recipe: Recipe) -> dict[str, Any]:
    """GFLOP/s of a decoding step's products and of a training micro-batch's, forward and both gradients."""
    rows = recipe.rollout.prompts * recipe.rollout.group_size
    decode = [(rows, i, o) for i, o in matrices(c)]
    n = recipe.learner.microbatch_tokens
    train = [s for i, o in matrices(c) for s in ((n, i, o), (n, o, i), (o, n, i))]
    return {"decode_gflops": gflops(decode, dtype), "train_gflops": gflops(train, dtype)}


def gflops(shapes: Sequence[Shape], dtype: torch.dtype) -> float:
    """The rate over these products, each repeated for 20 ms; equal shapes are measured once."""
    seconds = {shape: _seconds(shape, dtype) for shape in set(shapes)}
    work = sum(2 * rows * inputs * outputs for rows, inputs, outputs in shapes)
    return work / sum(seconds[shape] for shape in shapes) / 1e9


def _seconds(shape: Shape, dtype: torch.dtype) -> float:
    rows, inputs, outputs = shape
    x, w = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    best, ends = float("inf"), time.perf_counter() + 0.02
    while time.perf_counter() < ends:
        started = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best = min(best, time.perf_counter() - started)
    return best
