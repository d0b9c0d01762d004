"""How weights get into a vLLM server: by its weight-transfer API, over NCCL or through a folder that both sides see.

NCCL is vLLM's own. `FolderReceiver` is ours, for machines where there is none: the server finds it by the entry point of this
package (pyproject.toml) as backend "longthink". Both are driven by the same calls.
"""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from longthink.canary import digest
from longthink.engines.vllm.inside import empty_cache, pack_head
from longthink.errors import EngineError

__all__ = ["FolderReceiver", "Source", "open_sender", "register"]

BACKEND = "longthink"


def register() -> None:
    """Make the backend known to vLLM; every process of a server calls it."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, "FolderReceiver")


class Source(WeightSource):
    """The weights that are sent next, in the dtype a server samples in; on `device` where they are sent from there."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.named: Sequence[tuple[str, Tensor]] = ()
        self.dtype, self.device = dtype, device

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, self.dtype, tuple(t.shape)) for name, t in self.named]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, t in self.named:
            yield name, t.to(self.device, self.dtype)


class FolderSender:
    """Writes the weights into a file and tells the server its name and every tensor's digest."""

    empty = False  # what the server keeps of earlier tokens may not be finite

    def __init__(self, folder: str, client: Any, source: Source) -> None:
        self.client, self.source = client, source
        name = re.sub(r"\W+", "_", client.address.partition("//")[2])  # the server's: who comes after writes over what was left
        self.path = Path(folder) / f"longthink_{name}.safetensors"
        if not Path(folder).is_dir() or not os.access(folder, os.W_OK):
            raise EngineError(f"engine.transfer is {folder}: no folder one can write into; give one that the servers see too")
        client.init_weight_transfer_engine({})

    def send_weights(self) -> None:
        named = {name: t.contiguous() for name, t in self.source}
        try:
            try:
                save_file(named, self.path)
            except (OSError, SafetensorError) as e:
                raise EngineError(f"engine.transfer: {self.path} cannot be written: {e}") from None
            self.client.start_weight_update()
            self.client.update_weights({"path": str(self.path), "digests": digest(named.items()), "empty": self.empty})
            self.client.finish_weight_update()
        finally:
            self.path.unlink(missing_ok=True)


@dataclass
class FolderInit(WeightTransferInitInfo):
    """Nothing is agreed on in advance."""


@dataclass
class FolderUpdate(WeightTransferUpdateInfo):
    """The file, CRC-32s of its tensors, and whether the cache must be emptied (0 times NaN is not 0)."""

    path: str
    digests: dict[str, int] = field(default_factory=dict)
    empty: bool = False


class FolderReceiver(WeightTransferEngine[FolderInit, FolderUpdate]):
    """The server's side: reads what `FolderSender` wrote, layer by layer, so that vLLM packs it anew for its kernels."""

    init_info_cls = FolderInit
    update_info_cls = FolderUpdate

    def init_transfer_engine(self, init_info: FolderInit) -> None:
        pass

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FolderUpdate) -> None:
        with safe_open(update_info.path, "pt") as file:
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        found = digest(named.items())
        if odd := [name for name, expected in update_info.digests.items() if found.get(name) != expected]:
            raise RuntimeError(f"{len(odd)} of {len(found)} tensors differ from what was sent: {', '.join(odd[:5])}")
        if update_info.empty:
            empty_cache(self.vllm_config)
        self.model.load_weights(iter(named.items()))

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        pack_head(self.model)

    def shutdown(self) -> None:
        pass


def open_sender(how: str, address: str, workers: int, client: Any, source: Source) -> Any:
    """What sends `source` to a server of so many workers: over NCCL for "nccl", else through the folder `how`."""
    if how != "nccl":
        return FolderSender(how, client, source)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

    with socket.create_connection((urlsplit(address).hostname or "", urlsplit(address).port or 80)) as there:
        mine = there.getsockname()[0]  # what the server sees of this machine
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    init = NCCLTrainerInitInfo(mine, port, 1 + workers, rank=0)
    return NCCLTrainerWeightTransferEngine.trainer_init(init, client=client, source=source)
