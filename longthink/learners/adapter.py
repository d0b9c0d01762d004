"""LoRA: frozen matrices W with trained low-rank updates, W + (alpha / rank)·B·A; on disk an adapter as PEFT reads and writes it.

A begins uniform within ±1/√inputs and B at 0, as in PEFT, so that training begins at the base model, which is also the reference
policy: adapters off, at no extra memory. Source: Hu et al. 2021, section 4.1.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from longthink import storage
from longthink.errors import CheckpointError
from longthink.folder import fill
from longthink.model import Decoder, Linear
from longthink.tables import LoraSettings

__all__ = ["ADAPTER", "attach", "merged", "plain", "read_adapter", "switched_off", "whole", "write_adapter"]

ADAPTER = "adapter"  # the folder within a checkpoint
PREFIX = "base_model.model."  # of PEFT's names


class Adapter(nn.Module):
    """One matrix's update: A [rank, inputs], B [outputs, rank]."""

    def __init__(self, linear: Linear, settings: LoraSettings, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        bound = 1.0 / math.sqrt(inputs)
        drawn = (2.0 * torch.rand(settings.rank, inputs, generator=generator) - 1.0) * bound
        self.A = nn.Parameter(drawn.to(linear.weight))
        self.B = nn.Parameter(torch.zeros(outputs, settings.rank).to(linear.weight))
        self.scale, self.on = settings.alpha / settings.rank, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x.new_zeros(())
        return self.scale * F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))


def attach(decoder: Decoder, settings: LoraSettings, seed: int) -> None:
    """Freeze a decoder and give the matrices that are named their updates; the same seed gives the same ones."""
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for _, linear in _linears(decoder):
        if linear[0] in settings.targets:
            linear[1].delta = Adapter(linear[1], settings, generator)


def _linears(decoder: Decoder) -> Iterator[tuple[str, tuple[str, Linear]]]:
    """The linear maps of all layers: where each is, and its own name."""
    for name, module in decoder.model.layers.named_modules():
        if isinstance(module, Linear):
            yield f"model.layers.{name}", (name.rpartition(".")[2], module)


def _adapters(decoder: Decoder) -> Iterator[tuple[str, Adapter]]:
    for name, (_, linear) in _linears(decoder):
        if isinstance(linear.delta, Adapter):
            yield name, linear.delta


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it is, or put together where it is cut over ranks: then every rank must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def merged(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model that a decoder is, whole and with its updates in them; of a sharded one every rank must ask."""
    updates = {f"{name}.weight": adapter for name, adapter in _adapters(decoder)}
    for name, p in decoder.named_parameters():
        if ".delta." in name:
            continue
        one = whole(p.detach())
        if (update := updates.get(name)) is not None:
            one = one + update.scale * (whole(update.B.detach()) @ whole(update.A.detach()))
        yield name, one


def plain(decoder: Decoder) -> Decoder:
    """A decoder of these weights and nothing else, for a sampler: itself, or a copy of one that is sharded or has updates."""
    first = next(decoder.parameters())
    if not hasattr(first, "full_tensor") and not any(_adapters(decoder)):
        return decoder
    copy = Decoder.hollow(decoder.config, first.device).to(first.dtype).requires_grad_(False)
    for target, (_, source) in zip(copy.parameters(), merged(decoder), strict=True):
        target.copy_(source)
    copy.compute_dtype = decoder.compute_dtype
    return copy


@contextmanager
def switched_off(decoder: Decoder) -> Iterator[None]:
    """Within it the decoder is its base model."""
    adapters = [adapter for _, adapter in _adapters(decoder)]
    for adapter in adapters:
        adapter.on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.on = True


def write_adapter(folder: Path, decoder: Decoder, settings: LoraSettings, base: str, *, write: bool) -> None:
    """Write the updates as PEFT does, into `folder`/adapter; of a sharded decoder every rank must ask, and one writes."""
    tensors: dict[str, Tensor] = {}
    for name, adapter in _adapters(decoder):
        for letter, p in (("A", adapter.A), ("B", adapter.B)):
            tensors[f"{PREFIX}{name}.lora_{letter}.weight"] = whole(p.detach()).contiguous().cpu()
    if not write:
        return
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(settings.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    storage.make_folder(folder / ADAPTER)
    storage.write_bytes(folder / ADAPTER / "adapter_model.safetensors", save(tensors, {"format": "pt"}))
    storage.write_bytes(folder / ADAPTER / "adapter_config.json", json.dumps(config, indent=2).encode())


@torch.no_grad()
def read_adapter(folder: Path, decoder: Decoder) -> None:
    """Read updates of the same shape. Raises: CheckpointError where there are others, or none."""
    path = folder / ADAPTER / "adapter_model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {ADAPTER}/ in it; it was not trained with [lora]. Give it as model.path instead")
    tensors = load_file(path)
    for name, adapter in _adapters(decoder):
        for letter, p in (("A", adapter.A), ("B", adapter.B)):
            found = tensors.pop(f"{PREFIX}{name}.lora_{letter}.weight", None)
            if found is None or found.shape != p.shape:
                raise CheckpointError(f"{path}: {name} is missing or of another rank; [lora] must be as it was")
            fill(p, found)
    if tensors:
        raise CheckpointError(f"{path}: {min(tensors)} has no place; [lora] must be as it was")
