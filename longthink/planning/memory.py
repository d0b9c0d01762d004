"""Bytes by use: what a recipe needs in each of its processes."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from longthink.model import ModelConfig
from longthink.recipe import Recipe

__all__ = ["GIB", "Shape", "count_parameters", "lines", "needs"]

GIB = 2**30
KEPT = 17  # numbers a token and hidden unit that a layer keeps for its backward pass: norms, projections, products of the MLP


def count_parameters(c: ModelConfig) -> int:
    """Parameters of the decoder.

    A layer has H·(heads + 2·kv)·D + heads·D·H for attention and 3·H·intermediate for the MLP.
    """
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    attention = c.hidden_size * (2 * heads + 2 * kv) + (heads + 2 * kv) * c.qkv_bias + c.hidden_size * c.output_bias
    mlp = 3 * c.hidden_size * c.intermediate_size + (2 * c.intermediate_size + c.hidden_size) * c.mlp_bias
    layer = attention + mlp + 2 * c.hidden_size + 2 * c.head_dim * c.qk_norm
    return c.num_layers * layer + c.vocab_size * c.hidden_size * (1 if c.tied else 2) + c.hidden_size


class Shape(NamedTuple):
    """A model's numbers that cost anything."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    tied: bool
    kv_numbers: int  # of a token in the cache
    low_rank: Mapping[str, int]  # inputs and outputs of a layer's matrices, by name: what a rank of their updates has

    @classmethod
    def of(cls, c: ModelConfig) -> "Shape":
        kv = 2 * c.num_layers * c.num_kv_heads * c.head_dim
        heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        ends = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "o_proj": heads}
        ends |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), c.intermediate_size)
        low_rank = {name: c.hidden_size + other for name, other in ends.items()}
        return cls(count_parameters(c), c.num_layers, c.hidden_size, c.vocab_size, c.tied, kv, low_rank)


def needs(recipe: Recipe, shape: Shape) -> tuple[dict[str, float], dict[str, float], int]:
    """GiB by use of a learner rank and of a sampler, and how many rollouts of full length the sampler holds.

    The learner has master weights, gradients and two moments in fp32 (float64 for a float64 model) and the reference too, cut
    over sharded ranks; with low-rank updates those alone have gradients and moments, and the frozen weights are the reference. A
    layer is whole while it computes. A micro-batch keeps activations for its backward pass: of all layers, or with
    `checkpoint_layers` each layer's input and one layer's rest. A sequence is never cut, so that one that is longer than
    `microbatch_tokens` is a micro-batch of its own. A sampler has the weights in its dtype, the embedded one embedding and head
    in fp32, and keys and values of the rollouts that run.
    """
    dtype = getattr(torch, recipe.model.dtype if recipe.model.dtype != "auto" else "bfloat16")
    wide, narrow = (8 if dtype == torch.float64 else 4), dtype.itemsize
    learner, cluster, longest = recipe.learner, recipe.cluster, recipe.rollout.max_prompt_tokens + recipe.last_window
    ranks = max(1, cluster.learners) if cluster.shard else 1
    tokens = max(learner.microbatch_tokens, longest)
    ends = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)  # embedding and head
    layer = (shape.parameters - ends) / shape.layers
    trained = shape.parameters
    if recipe.lora:
        trained = recipe.lora.rank * shape.layers * sum(shape.low_rank[name] for name in recipe.lora.targets)
    kept = tokens * shape.hidden * narrow * (shape.layers + KEPT if learner.checkpoint_layers else shape.layers * KEPT)
    kept_whole = any(r.loss.kl for r in recipe.staged) and not recipe.reference.on_host and not recipe.lora
    rank = {
        "frozen weights": wide * shape.parameters / ranks if recipe.lora else 0.0,
        "weights, gradients, AdamW": 4 * wide * trained / ranks,
        "reference": wide * shape.parameters / ranks if kept_whole else 0.0,
        "gathered layers": 2 * wide * layer if ranks > 1 else 0.0,
        "activations": kept,
        "logits": 3 * wide * min(learner.head_chunk, tokens) * shape.vocabulary,
    }
    rows = min(recipe.engine.max_rows, recipe.rollout.prompts * recipe.rollout.group_size)
    row = longest * shape.kv_numbers * narrow
    cache = min(rows * row, recipe.engine.cache_gb * GIB)
    whole = (
        (wide - narrow) * shape.vocabulary * shape.hidden * (1 if shape.tied else 2) if recipe.engine.kind == "embedded" else 0
    )
    sampler = {"sampler weights": narrow * shape.parameters + whole, "cache": cache}
    found = [{name: size / GIB for name, size in uses.items() if size} for uses in (rank, sampler)]
    return found[0], found[1], min(rows, int(cache // row))


def lines(recipe: Recipe, shape: Shape) -> list[str]:
    """The arithmetic for a terminal: each kind of process, its uses, and their sum."""
    rank, sampler, rows = needs(recipe, shape)
    learners, samplers = max(1, recipe.cluster.learners), recipe.cluster.samplers
    together = {"samplers": sampler} if samplers and not recipe.engine.servers else {}
    processes = {"ranks": rank if samplers else rank | sampler} | together
    count = {"ranks": learners, "samplers": samplers}
    made = []
    for name, uses in processes.items():
        each = ", ".join(f"{use} {size:.2f}" for use, size in uses.items())
        made.append(f"memory of {count[name]} {name}: {sum(uses.values()):.2f} GiB each ({each})")
    host = f"; the reference, {4 * shape.parameters / GIB:.2f} GiB, lives on the host" if recipe.reference.on_host else ""
    return [
        *made,
        f"model: {shape.parameters:,} parameters; {rows} rollouts of {recipe.rollout.max_prompt_tokens + recipe.last_window} "
        f"tokens side by side{host}",
    ]
