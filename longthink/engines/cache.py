"""The sampler's key-value cache: one slot a row, left-aligned, grown as rows get longer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from longthink.model import Attend, ModelConfig

__all__ = ["SlotCache"]

BLOCK = 64  # capacity grows by a quarter and in whole blocks, so a long rollout copies its cache few times


class SlotCache:
    """Keys [rows, kv heads, D, capacity] and values [rows, kv heads, capacity, D] for every layer.

    Keys are stored transposed: a batched product with a transposed view of them is copied first by the
    bf16 kernels, which costs more than the product.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        kv, size = config.num_kv_heads, config.head_dim
        self.keys = [torch.zeros((0, kv, size, 0), dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros((0, kv, 0, size), dtype=dtype, device=device) for _ in range(config.num_layers)]

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize

    def reserve(self, rows: int, length: int) -> None:
        """Make the capacity at least `rows` × `length`."""
        old_rows, capacity = self.keys[0].shape[0], self.keys[0].shape[3]
        if rows <= old_rows and length <= capacity:
            return
        more = 0
        if length > capacity:
            more = -(-max(length, capacity * 5 // 4) // BLOCK) * BLOCK - capacity
        new = max(rows, old_rows) - old_rows
        self.keys = [F.pad(t, (0, more, 0, 0, 0, 0, 0, new)) for t in self.keys]
        self.values = [F.pad(t, (0, 0, 0, more, 0, 0, 0, new)) for t in self.values]

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep these rows only, and of the capacity what `length` needs."""
        length = min(self.keys[0].shape[3], -(-length // BLOCK) * BLOCK)
        self.keys = [t[..., :length][rows] for t in self.keys]
        self.values = [t[:, :, :length][rows] for t in self.values]

    def store(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [rows, T, kv heads, D] at the beginning of these rows."""
        width = k.shape[1]
        self.keys[layer][rows, :, :, :width] = k.permute(0, 2, 3, 1)
        self.values[layer][rows, :, :width] = v.transpose(1, 2)

    def attend(self, positions: Tensor, longest: int) -> Attend:
        """A callback for `run_layers` with one new token a row, at these positions [R]; `longest` bounds them.

        A multiple of 16 tokens is looked at, because the kernels are faster on whole vectors; what lies
        beyond a row's position is masked.
        """
        c, rows = self.config, len(positions)
        longest = min(-(-longest // 16) * 16, self.keys[0].shape[3])
        every = torch.arange(rows, device=positions.device)
        share = c.num_heads // c.num_kv_heads
        seen = torch.arange(longest, device=positions.device) <= positions.unsqueeze(1)
        mask = torch.where(seen, 0.0, -torch.inf).to(self.keys[0].dtype).unsqueeze(1)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[every, :, :, positions] = k
            values[every, :, positions] = v
            keys = keys[:rows, :, :, :longest].flatten(0, 1)
            values = values[:rows, :, :longest].flatten(0, 1)
            grouped = (q * c.head_dim**-0.5).reshape(rows * c.num_kv_heads, share, c.head_dim)
            scores = torch.bmm(grouped, keys).view(rows, c.num_heads, longest).add_(mask)
            probs = F.softmax(scores, dim=-1).view(rows * c.num_kv_heads, share, longest)
            return torch.bmm(probs, values).view(rows, c.num_heads, c.head_dim)

        return attend
