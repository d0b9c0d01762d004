"""The sampler's key-value cache: one slot a row, left-aligned, grown as rows get longer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from longthink.attention import Attend
from longthink.model import ModelConfig

__all__ = ["SlotCache"]

BLOCK = 16  # capacity is a multiple of this and grows by at least a sixteenth


class SlotCache:
    """Keys [rows, kv heads, D, capacity] and values [rows, kv heads, capacity, D] for every layer.

    Keys are stored transposed, and the products read the whole capacity: of a transposed view or a part the CPU's
    kernels make a copy first, which costs as much as the product. So capacity stays close to the longest row;
    growing copies the cache once in 16 steps or more, an eighth of what those steps read.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.longest = config, 0  # tokens no row will pass
        kv, size = config.num_kv_heads, config.head_dim
        self.keys = [torch.zeros((0, kv, size, 0), dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros((0, kv, 0, size), dtype=dtype, device=device) for _ in range(config.num_layers)]

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[3]

    def reserve(self, rows: int, length: int) -> None:
        """Make the capacity at least `rows` × `length`."""
        old_rows, capacity = self.keys[0].shape[0], self.capacity
        if rows <= old_rows and length <= capacity:
            return
        more = (
            max(_blocks(length), min(_blocks(capacity * 17 // 16), _blocks(self.longest))) - capacity if length > capacity else 0
        )
        new = max(rows, old_rows) - old_rows
        for layer in range(self.config.num_layers):  # one after another: two copies of one layer at most
            self.keys[layer] = F.pad(self.keys[layer], (0, more, 0, 0, 0, 0, 0, new))
            self.values[layer] = F.pad(self.values[layer], (0, 0, 0, more, 0, 0, 0, new))

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep these rows only, and of the capacity what `length` needs."""
        length = min(self.capacity, _blocks(length))
        for layer in range(self.config.num_layers):
            self.keys[layer] = self.keys[layer][..., :length][rows]
            self.values[layer] = self.values[layer][:, :, :length][rows]

    def store(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [rows, T, kv heads, D] at the beginning of these rows."""
        width = k.shape[1]
        self.keys[layer][rows, :, :, :width] = k.permute(0, 2, 3, 1)
        self.values[layer][rows, :, :width] = v.transpose(1, 2)

    def attend(self, positions: Tensor) -> Attend:
        """A callback for `run_layers` with one new token a row, at these positions [rows]; what lies beyond is masked."""
        c, rows, capacity = self.config, len(positions), self.capacity
        every = torch.arange(rows, device=positions.device)
        share = c.num_heads // c.num_kv_heads
        seen = torch.arange(capacity, device=positions.device) <= positions.unsqueeze(1)
        mask = torch.where(seen, 0.0, -torch.inf).to(self.keys[0].dtype).unsqueeze(1)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[every, :, :, positions] = k
            values[every, :, positions] = v
            grouped = (q * c.head_dim**-0.5).reshape(rows * c.num_kv_heads, share, c.head_dim)
            scores = torch.bmm(grouped, keys.flatten(0, 1)).view(rows, c.num_heads, capacity).add_(mask)
            probs = F.softmax(scores, dim=-1).view(rows * c.num_kv_heads, share, capacity)
            return torch.bmm(probs, values.flatten(0, 1)).view(rows, c.num_heads, c.head_dim)

        return attend


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
