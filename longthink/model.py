"""One decoder for the Qwen2, Qwen3 and Llama families, used by sampler and learner alike.

`run_layers` is the only forward pass. The learner runs it over `Decoder`, whose parameters carry the names
and shapes of the Hugging Face folder (fp32 master weights); the sampler runs it over `FusedLayer`s, copies
with q/k/v and gate/up joined. How queries meet keys is a callback, so a cache is the sampler's business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longthink.attention import Attend, Layout, attend_rows
from longthink.errors import ModelError
from longthink.kernels import rms_norm, rotary, swiglu
from longthink.rope import rope_frequencies, rope_table

__all__ = [
    "Decoder",
    "FusedLayer",
    "Linear",
    "ModelConfig",
    "run_layers",
]

FAMILIES = ("qwen2", "qwen3", "llama")


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says of the shape; `raw` keeps the file as it was, for writing it back."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    rope: Mapping[str, Any]
    max_positions: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    raw: Mapping[str, Any]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Read a Hugging Face config, of this or an older transformers generation.

        Raises: ModelError for another family, another activation, sliding windows or an unknown rope type.
        """
        family = raw.get("model_type")
        if family not in FAMILIES:
            raise ModelError(f"config.json: model_type is {family!r}, expected one of {', '.join(FAMILIES)}")
        if raw.get("hidden_act", "silu") != "silu":
            raise ModelError(f"config.json: hidden_act is {raw['hidden_act']!r}, only 'silu' is supported")
        if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
            raise ModelError("config.json: sliding-window attention is not supported; set use_sliding_window to false")
        heads = int(raw["num_attention_heads"])
        rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
        rope["rope_theta"] = float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0)
        rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
        rope_frequencies(rope, 64, int(raw["max_position_embeddings"]))  # refuses an unknown type here
        bias = bool(raw.get("attention_bias", False))
        return cls(
            family=family,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
            rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope=rope,
            max_positions=int(raw["max_position_embeddings"]),
            tied=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=True if family == "qwen2" else bias,
            output_bias=False if family == "qwen2" else bias,
            mlp_bias=bool(raw.get("mlp_bias", False)) and family == "llama",
            qk_norm=family == "qwen3",
            raw=dict(raw),
        )


class Linear(nn.Module):
    """A linear map that may carry a delta (an adapter's low-rank update, added to the output)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.delta: Callable[[Tensor], Tensor] | None = None


def join(linears: Sequence[Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of several linears of the same input, one above the other."""
    if len(linears) == 1:
        return linears[0].weight, linears[0].bias
    biases = tuple(linear.bias for linear in linears if linear.bias is not None)
    return torch.cat(tuple(linear.weight for linear in linears)), torch.cat(biases) if biases else None


def apply_linears(x: Tensor, linears: Sequence[Linear]) -> Tensor:
    """The outputs of several linears side by side, in the dtype of x; gradients reach the master weights."""
    weight, bias = join(linears)
    y = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    if any(linear.delta is not None for linear in linears):
        parts = y.split([len(linear.weight) for linear in linears], dim=-1)
        moved = [p if m.delta is None else p + m.delta(x).to(x.dtype) for p, m in zip(parts, linears, strict=True)]
        y = torch.cat(moved, dim=-1)
    return y


class Norm(nn.Module):
    """RMSNorm's weight; the arithmetic is in `run_layers`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))


class LayerLike(Protocol):
    """What `run_layers` needs of a layer; inputs [n, ...] and results are in the dtype of the matmuls."""

    def norms(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weights before attention [H], before the MLP [H], of queries and keys [heads + kv heads, D]."""
        ...

    def qkv(self, x: Tensor) -> Tensor: ...
    def output(self, x: Tensor) -> Tensor: ...
    def gate_up(self, x: Tensor) -> Tensor: ...
    def down(self, x: Tensor) -> Tensor: ...


def run_layers(
    layers: Sequence[LayerLike],
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
    *,
    config: ModelConfig,
    dtype: torch.dtype,
) -> Tensor:
    """The residual stream [n, H] after all layers, before the last norm.

    Shapes: x [n, H] in fp32 (float64 for a float64 model), rope cos and sin [n, D]. `attend(i, q, k, v)`
    gets q [n, heads, D] and k, v [n, kv heads, D] in `dtype` and returns [n, heads, D]. Matmuls run in
    `dtype`; the residual stream and the norms stay wide.
    """
    cos, sin = (r.unsqueeze(-2) for r in rope)
    eps, heads, kv_heads = config.rms_eps, config.num_heads, config.num_kv_heads
    for index, layer in enumerate(layers):
        before, between, qk_norm = layer.norms()
        joined = layer.qkv(rms_norm(x, before, eps, dtype)).unflatten(-1, (-1, config.head_dim))
        qk, v = joined.split([heads + kv_heads, kv_heads], dim=-2)
        q, k = rotary(qk, qk_norm, cos, sin, eps).split([heads, kv_heads], dim=-2)
        x = x + layer.output(attend(index, q, k, v).flatten(-2))
        x = x + layer.down(swiglu(layer.gate_up(rms_norm(x, between, eps, dtype))))
    return x


class Attention(nn.Module):
    """Parameters of one attention block, under the folder's names."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.q_proj = Linear(c.hidden_size, c.num_heads * c.head_dim, bias=c.qkv_bias)
        self.k_proj = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.qkv_bias)
        self.v_proj = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.qkv_bias)
        self.o_proj = Linear(c.num_heads * c.head_dim, c.hidden_size, bias=c.output_bias)
        self.q_norm = Norm(c.head_dim) if c.qk_norm else None
        self.k_norm = Norm(c.head_dim) if c.qk_norm else None


class Mlp(nn.Module):
    """Parameters of one gated MLP."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)


class Layer(nn.Module):
    """One decoder layer as the folder stores it."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.config = c
        self.self_attn = Attention(c)
        self.mlp = Mlp(c)
        self.input_layernorm = Norm(c.hidden_size)
        self.post_attention_layernorm = Norm(c.hidden_size)

    def norms(self) -> tuple[Tensor, Tensor, Tensor | None]:
        q, k, c = self.self_attn.q_norm, self.self_attn.k_norm, self.config
        if q is None or k is None:
            return self.input_layernorm.weight, self.post_attention_layernorm.weight, None
        both = torch.cat([q.weight.expand(c.num_heads, -1), k.weight.expand(c.num_kv_heads, -1)])
        return self.input_layernorm.weight, self.post_attention_layernorm.weight, both

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, dtype: torch.dtype) -> Tensor:
        """The residual stream after this layer alone: where a sharded layer's weights are gathered and let go."""
        return run_layers([self], x, rope, attend, config=self.config, dtype=dtype)

    def linears(self) -> tuple[tuple[Linear, ...], ...]:
        """The linears that share an input: q/k/v, output, gate/up, down."""
        a, m = self.self_attn, self.mlp
        return (a.q_proj, a.k_proj, a.v_proj), (a.o_proj,), (m.gate_proj, m.up_proj), (m.down_proj,)

    def qkv(self, x: Tensor) -> Tensor:
        return apply_linears(x, self.linears()[0])

    def output(self, x: Tensor) -> Tensor:
        return apply_linears(x, self.linears()[1])

    def gate_up(self, x: Tensor) -> Tensor:
        return apply_linears(x, self.linears()[2])

    def down(self, x: Tensor) -> Tensor:
        return apply_linears(x, self.linears()[3])


class _Body(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Norm(0)
        self.embed_tokens.weight = nn.Parameter(torch.empty(c.vocab_size, c.hidden_size))
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_layers))
        self.norm = Norm(c.hidden_size)


class Decoder(nn.Module):
    """The learner's model: `state_dict()` is what the folder's safetensors hold."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        self.lm_head = None if config.tied else Linear(config.hidden_size, config.vocab_size, bias=False)
        self.compute_dtype = torch.float32
        self.checkpoint_layers = False

    @classmethod
    def hollow(cls, config: ModelConfig, device: torch.device | str = "meta") -> "Decoder":
        """A decoder to be filled; on the device `meta` it is of shapes alone, until it is given room (`to_empty`)."""
        with torch.device(device):
            return cls(config)

    @property
    def layers(self) -> list[Layer]:
        return list(self.model.layers)  # type: ignore[arg-type]

    @property
    def head_weight(self) -> Tensor:
        """[V, H] the matrix that turns hidden states into logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def init_weights(self, seed: int, std: float = 0.02) -> None:
        """Draw every matrix from N(0, std²), set norms to 1 and biases to 0."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    p.copy_(torch.randn(p.shape, generator=generator) * std)
                else:
                    p.fill_(0.0 if name.endswith("bias") else 1.0)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Hidden states [n, H] after the last norm, wide, for tokens [n] of this layout."""
        c, dtype = self.config, self.compute_dtype
        x = F.embedding(tokens, self.model.embed_tokens.weight)
        cos, sin = rope_table(c, max(width for _, width in layout.blocks), x.dtype, tokens.device)
        rope, attend = (cos[layout.positions], sin[layout.positions]), attend_rows(layout)
        for layer in self.layers:
            x = (
                checkpoint(layer, x, rope, attend, dtype, use_reentrant=False)
                if self.checkpoint_layers
                else layer(x, rope, attend, dtype)
            )
        return rms_norm(x, self.model.norm.weight, c.rms_eps, x.dtype)


class FusedLayer:
    """A copy of a layer for generation: q/k/v and gate/up joined, matrices in the compute dtype."""

    def __init__(self, layer: Layer, dtype: torch.dtype, device: torch.device) -> None:
        if any(linear.delta is not None for part in layer.linears() for linear in part):
            raise ModelError("the sampler cannot fuse a layer that carries a delta: merge the adapter first")
        joined = [join(part) for part in layer.linears()]
        copies = [
            (w.detach().to(device, dtype, copy=True), None if b is None else b.detach().to(device, dtype, copy=True))
            for w, b in joined
        ]
        self._qkv, self._output, self._gate_up, self._down = copies
        before, between, both = (None if n is None else n.detach().to(device, copy=True) for n in layer.norms())
        assert before is not None and between is not None
        self._norms = before, between, both

    def norms(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._norms

    def qkv(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._qkv)

    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._output)

    def gate_up(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._gate_up)

    def down(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._down)
