"""Rotary position embedding: frequencies of every type the three families use, and tables."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longthink.errors import ModelError

if TYPE_CHECKING:
    from longthink.model import ModelConfig

__all__ = ["rope_frequencies", "rope_table"]


def rope_frequencies(rope: Mapping[str, Any], head_dim: int, max_positions: int) -> tuple[Tensor, float]:
    """Inverse frequencies [D/2] and the attention factor on cos and sin.

    Types: default, linear, llama3 (Llama 3.1 report), yarn (Peng et al. 2023). Raises: ModelError otherwise.
    """
    base, kind = float(rope["rope_theta"]), rope["rope_type"]
    inverse = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if kind == "default":
        return inverse, 1.0
    if kind not in ("linear", "llama3", "yarn"):
        raise ModelError(f"config.json: rope type {kind!r} is not supported (default, linear, llama3, yarn are)")
    factor = float(rope["factor"])
    if kind == "linear":
        return inverse / factor, 1.0
    original = float(rope.get("original_max_position_embeddings") or max_positions)
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        wavelength = 2 * math.pi / inverse
        smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * inverse / factor + smooth * inverse, 1.0

    def dimension(rotations: float) -> float:
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(float(rope.get("beta_fast") or 32)), dimension(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    given = rope.get("attention_factor")
    return inverse / factor * ramp + inverse * (1 - ramp), float(given) if given is not None else _yarn_scale(rope)


def _yarn_scale(rope: Mapping[str, Any]) -> float:
    def scale(factor: float, mscale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    factor, mscale, all_dim = float(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        return scale(factor, float(mscale)) / scale(factor, float(all_dim))
    return scale(factor)


def rope_table(config: "ModelConfig", positions: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cos and sin [positions, D] in `dtype`, sin with its first half negated as `kernels.rotary` wants it."""
    inverse, scale = rope_frequencies(config.rope, config.head_dim, config.max_positions)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    angle = torch.outer(torch.arange(positions, dtype=wide), inverse.to(wide))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return torch.cat([cos, cos], dim=-1).to(device, dtype), torch.cat([-sin, sin], dim=-1).to(device, dtype)
