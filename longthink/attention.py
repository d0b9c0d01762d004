"""How rows of different length lie in one flat run of tokens, and causal attention inside each of them.

Everything but attention works on the flat run, without padding. Attention copies it into blocks of right-padded
rows of similar length and back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from longthink.types import Ints

__all__ = ["Attend", "Layout", "attend_rows", "causal_attention"]


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """Rows one after another in n tokens; those behind the last row are filler, which no row sees.

    A place is an index into the padded blocks, laid out one after another: rows of the first, then of the next.
    """

    blocks: tuple[tuple[int, int], ...]  # rows and width of each
    positions: Tensor  # [n] of each token in its row; 0 for filler
    tokens: Tensor  # [places] the token at each place; padding repeats the last of its row
    places: Tensor  # [tokens in rows] the place of each token
    padding: Tensor  # the places that hold padding

    @classmethod
    def of(
        cls, blocks: Sequence[Sequence[int] | Ints], *, width: int = 1, total: int = 1, device: torch.device | str = "cpu"
    ) -> "Layout":
        """Blocks of rows of these lengths, as wide as a multiple of `width`; n becomes a multiple of `total` by filler."""
        shapes, tokens, inside, positions, start = [], [], [], [], 0
        for block in blocks:
            lengths = np.asarray(block, np.int64)
            shapes.append((len(lengths), int(-(-lengths.max() // width) * width)))
            steps, starts = np.arange(shapes[-1][1]), start + np.cumsum(lengths) - lengths
            real = steps < lengths[:, None]
            tokens.append((starts[:, None] + np.minimum(steps, lengths[:, None] - 1)).reshape(-1))
            inside.append(real.reshape(-1))
            positions.append(np.broadcast_to(steps, real.shape)[real])
            start += int(lengths.sum())
        positions.append(np.zeros(-start % total, np.int64))
        real = np.concatenate(inside)
        arrays = np.concatenate(positions), np.concatenate(tokens), np.flatnonzero(real), np.flatnonzero(~real)
        return cls(tuple(shapes), *(torch.from_numpy(a).to(device) for a in arrays))

    @property
    def even(self) -> bool:
        """True where the flat run already is the blocks."""
        return not len(self.padding) and len(self.places) == len(self.positions)


class _ToBlocks(torch.autograd.Function):
    """[n, ...] -> [places, ...]; no token reads padding, so its gradient is zero and is not added up."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return flat.index_select(0, layout.tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _read(grad, ctx.layout), None


class _FromBlocks(torch.autograd.Function):
    """[places, ...] -> [n, ...], zero for filler."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return _read(places, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.layout.tokens).index_fill_(0, ctx.layout.padding, 0), None


def _read(places: Tensor, layout: Layout) -> Tensor:
    found = places.new_empty(len(layout.positions), *places.shape[1:])
    real = len(layout.places)
    torch.index_select(places, 0, layout.places, out=found[:real])
    found[real:] = 0
    return found


def attend_rows(layout: Layout) -> Attend:
    """Causal attention inside each row of the layout."""
    sizes = [rows * width for rows, width in layout.blocks]

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not layout.even:
            q, k, v = (_ToBlocks.apply(p, layout) for p in (q, k, v))  # type: ignore[no-untyped-call]
        parts = zip(layout.blocks, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        mixed = [causal_attention(*(p.unflatten(0, block) for p in qkv)).flatten(0, 1) for block, *qkv in parts]
        whole = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return whole if layout.even else _FromBlocks.apply(whole, layout)  # type: ignore[no-untyped-call]

    return attend


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of right-padded rows, each token seeing itself and what came before.

    Shapes: q [B, T, heads, D], k and v [B, T, kv heads, D] -> [B, T, heads, D]. Padding on the right is
    never seen by a real token. On a CPU in bf16, explicit scores beat the fused kernel up to about 512
    tokens; beyond, or elsewhere, the fused kernel runs.
    """
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and length <= 512:
        share = heads // kv_heads
        rows = q.unflatten(2, (kv_heads, share)).permute(0, 2, 3, 1, 4).reshape(batch * kv_heads, share * length, size)
        keys = k.permute(0, 2, 3, 1).reshape(batch * kv_heads, size, length)
        values = v.transpose(1, 2).reshape(batch * kv_heads, length, size)
        scores = torch.baddbmm(_causal_mask(length, share, q.dtype), rows, keys, alpha=size**-0.5)
        mixed = torch.bmm(F.softmax(scores, dim=-1), values)
        return mixed.view(batch, kv_heads, share, length, size).permute(0, 3, 1, 2, 4).flatten(2, 3)
    q, k, v = (p.transpose(1, 2) for p in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
    return mixed.transpose(1, 2)


@lru_cache(64)
def _causal_mask(length: int, share: int, dtype: torch.dtype) -> Tensor:
    """[share·T, T] minus infinity where a token would see what comes after it."""
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1).repeat(share, 1)
