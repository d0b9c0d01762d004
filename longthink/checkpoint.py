"""Checkpoints: a folder per step with a manifest of hashes; knows no holder's format.

A checkpoint is written under a temporary name, flushed and renamed, so a folder with its final name is
complete. It is an ordinary Hugging Face folder with a few files more.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from longthink import storage
from longthink.errors import CheckpointError

__all__ = ["Holder", "Parent", "checkpoint_path", "latest", "prune", "save_checkpoint", "steps", "verify"]

MANIFEST = "manifest.json"


class Holder(Protocol):
    """Something with state; `load` is its own affair because loading takes different arguments."""

    def save(self, folder: Path) -> None: ...


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` lies.

    >>> checkpoint_path(Path("run"), 20).as_posix()
    'run/checkpoints/step_000020'
    """
    return run / "checkpoints" / f"step_{step:06d}"


def steps(run: Path) -> list[int]:
    """The steps that have a checkpoint folder, sound or not, in order."""
    names = (re.fullmatch(r"step_(\d{6,})", p.name) for p in (run / "checkpoints").glob("step_*"))
    return sorted(int(name[1]) for name in names if name)


def save_checkpoint(
    run: Path, step: int, holders: Iterable[Holder], side_files: Mapping[str, bytes], facts: Mapping[str, Any]
) -> Path:
    """Write one checkpoint; it appears whole or not at all. `facts` go into the manifest (run, step, parent …)."""
    final = checkpoint_path(run, step)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    storage.make_folder(temporary)
    for name, data in side_files.items():
        storage.write_bytes(temporary / name, data)
    for holder in holders:
        holder.save(temporary)
    hashes = {p.relative_to(temporary).as_posix(): storage.file_hash(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
    manifest = {"longthink": 1, "step": step, **facts, "files": hashes}
    storage.write_bytes(temporary / MANIFEST, json.dumps(manifest, indent=2).encode())
    storage.commit_folder(temporary, final)
    return final


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a sound checkpoint. Raises: CheckpointError saying what is torn, missing or foreign."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}: not a longthink checkpoint")
    try:
        manifest = json.loads(path.read_text())
        hashes = manifest["files"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: unreadable manifest ({type(e).__name__}: {e})") from None
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if storage.file_hash(file) != expected:
            raise CheckpointError(f"{folder}: {name} is torn or changed (its hash differs from the manifest's)")
    return dict(manifest)


def latest(run: Path, run_id: str) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest sound checkpoint of this run, its manifest, and why newer ones were refused."""
    refused: list[str] = []
    for folder in (checkpoint_path(run, step) for step in reversed(steps(run))):
        try:
            manifest = verify(folder)
        except CheckpointError as e:
            refused.append(str(e))
            continue
        if manifest.get("run_id") != run_id:
            refused.append(f"{folder}: belongs to run {manifest.get('run_id')!r}, this is {run_id!r}")
            continue
        return folder, manifest, refused
    if refused:
        raise CheckpointError(f"{run}: no checkpoint can be used:\n" + "\n".join(f"  {line}" for line in refused))
    return None


def prune(run: Path, keep: set[int]) -> None:
    """Delete the checkpoints of all steps but these. A deletion that is interrupted leaves a torn folder, later refused."""
    for step in steps(run):
        if step not in keep:
            shutil.rmtree(checkpoint_path(run, step), ignore_errors=True)


class Parent:
    """Where a branch begins: a checkpoint of another run, and what is taken from it beside the weights."""

    def __init__(self, folder: Path, *, optimizer: bool = False, data: bool = False) -> None:
        self.folder, self.optimizer, self.data = folder, optimizer, data
        self.manifest = verify(folder)

    def lineage(self) -> dict[str, Any]:
        return {
            "parent": str(self.folder.resolve()),
            "parent_step": self.manifest["step"],
            "parent_run_id": self.manifest["run_id"],
            "with_optimizer": self.optimizer,
            "with_data": self.data,
        }
