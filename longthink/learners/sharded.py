"""FSDP2: a decoder cut over the ranks of a mesh. A layer's weights are whole only while it computes.

Every rank holds a part of each parameter, of its gradient and of its optimizer state, in fp32 (float64 for a float64 model).
Losses are sums divided by the counts of all ranks, so gradients are added up across ranks and never averaged.
"""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from longthink import storage
from longthink.errors import CheckpointError, StorageError
from longthink.folder import fill
from longthink.model import Decoder

__all__ = ["METADATA", "join", "leave", "let_go", "load_state", "save_state", "shard", "stored_names"]

METADATA = ".metadata"  # as torch calls it


def join(rank: int, world: int, device: str, store: TCPStore, patience_s: float) -> DeviceMesh:
    """This rank's place in the group of all learner ranks, who wait so long for each other; `leave` ends it."""
    torch.distributed.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=patience_s),
    )
    return init_device_mesh(torch.device(device).type, (world,))


def leave() -> None:
    """Leave the group, if this process is in one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def shard(decoder: Decoder, mesh: DeviceMesh, device: torch.device) -> Decoder:
    """The decoder, its parameters cut over the mesh, each rank's parts on its device: a whole parameter is there one at a time.

    Every rank must hold the same values; of a hollow decoder the parts have none yet.
    """
    values = {name: p.detach() for name, p in decoder.named_parameters()}
    decoder.to("meta")
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    for module in (*decoder.layers, decoder):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    decoder.to_empty(device=device)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            if not (value := values.pop(name)).is_meta:
                fill(p, value)
    return decoder


def let_go(decoder: Decoder) -> None:
    """Drop the gathered copies that a pass without a backward pass leaves: an optimizer step would make them stale."""
    for module in (*decoder.layers, decoder):
        if isinstance(module, FSDPModule):
            module.reshard()


# -- state on disk ----------------------------------------------------------------------------------------------------


def save_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write named tensors, each rank its own parts; all ranks call it, and it is done when it returns.

    The files are torch's distributed checkpoint, less the number it draws for each: the same state gives the same bytes.
    """
    with _reported(folder, StorageError, "could not be written"):
        found = state_dict_saver.save(dict(state), checkpoint_id=folder)
        if torch.distributed.get_rank() == 0:
            found.storage_meta = None
            storage.write_bytes(folder / METADATA, pickle.dumps(found))


def stored_names(folder: Path) -> set[str]:
    """The names `save_state` was given."""
    with _reported(folder, CheckpointError, "cannot be read"):
        return set(FileSystemReader(folder).read_metadata().state_dict_metadata)


def load_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Fill named tensors from what `save_state` wrote at any number of ranks."""
    with _reported(folder, CheckpointError, "cannot be read"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_loader.load(dict(state), checkpoint_id=folder, no_dist=not torch.distributed.is_initialized())


@contextmanager
def _reported(folder: Path, error: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except (CheckpointException, OSError) as e:
        raise error(f"{folder}: a sharded checkpoint {what} ({str(e).strip().splitlines()[-1]})") from None
