"""How a learner's weights reach samplers in other processes: through memory that all of them share."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from longthink.canary import digest
from longthink.learners.adapter import merged
from longthink.model import Decoder, ModelConfig

__all__ = ["Weights", "parameters_of", "wide"]


class Weights:
    """Room for a model's weights in memory that processes share, as wide as the learner's."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, wide(dtype)
        self.shapes = [(name, p.shape) for name, p in Decoder.hollow(config).named_parameters()]
        self.flat = self.room()

    def room(self) -> Tensor:
        """The memory, empty."""
        flat = torch.zeros(parameters_of(self.config), dtype=self.dtype)
        flat.share_memory_()
        return flat

    def post(self) -> Any:
        """What samplers must be told to find what was put here: nothing, they see the same memory."""
        return None

    def fetch(self, posted: Any) -> None:
        """Make what was posted the weights seen here."""

    def views(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's name, and its place."""
        start = 0
        for name, shape in self.shapes:
            yield name, self.flat[start : start + shape.numel()].view(shape)
            start += shape.numel()

    @torch.no_grad()
    def put(self, decoder: Decoder, *, write: bool) -> dict[str, int]:
        """Copy a decoder's weights here; of a sharded one every rank must ask, and one of them writes and gives digests."""
        found: dict[str, int] = {}
        places = dict(self.views()) if write else {}
        for name, one in merged(decoder):
            if write:
                found |= digest([(name, one)])
                places[name].copy_(one)
        return found

    def decoder(self, dtype: torch.dtype) -> Decoder:
        """A decoder whose parameters lie here."""
        decoder = Decoder.hollow(self.config)
        for name, place in self.views():
            module, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(module), leaf, nn.Parameter(place, requires_grad=False))
        decoder.compute_dtype = dtype
        return decoder


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of master weights where matrices are multiplied in this one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def parameters_of(config: ModelConfig) -> int:
    """How many numbers a model's weights are."""
    return sum(p.numel() for p in Decoder.hollow(config).parameters())
