"""Every byte a run writes goes through here: flushed, renamed into place, refused loudly when the disk is full.

`os.write`, `os.fsync` and `os.replace` are called nowhere else for run data, so a test can kill a run at its
k-th call and a reader can trust a name: a file or folder that has its final name is complete.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longthink.errors import CheckpointError, StorageError

__all__ = [
    "append_lines",
    "commit_folder",
    "cut_lines",
    "file_hash",
    "lock",
    "make_folder",
    "read_lines",
    "replace_file",
    "write_bytes",
]


FULL = "the disk is full; make room, and a run goes on with --resume"
BLOCKED = "a file stands where a folder should; name another place"
WHY = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.ENOTDIR: BLOCKED, errno.EEXIST: BLOCKED}


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Any refusal of the system becomes one message that names the file."""
    try:
        yield
    except OSError as e:
        raise StorageError(f"{path}: could not be written ({WHY.get(e.errno or 0, e.strerror)})") from None


def _write(path: Path, flags: int, data: bytes) -> None:
    with _reported(path):
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; one that is there is fine."""
    with _reported(path):
        path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file and flush it. Not atomic: for files inside a folder not yet committed."""
    _write(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, data)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is either the old one or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_bytes(temporary, data)
    with _reported(path):
        os.replace(temporary, path)
        _sync_folder(path.parent)


def commit_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its real name, replacing a leftover of the same name."""
    with _reported(final):
        for folder in (temporary, *(p for p in temporary.rglob("*") if p.is_dir())):
            _sync_folder(folder)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_folder(final.parent)


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines in one write and flush. A torn tail is what `read_lines` ignores and `cut_lines` removes."""
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if data:
        _write(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, data.encode("utf-8", "surrogatepass"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file; a missing file has none, a torn last line is left out."""
    if not path.exists():
        return []
    *lines, _tail = path.read_bytes().split(b"\n")
    try:
        return [json.loads(line.decode("utf-8", "surrogatepass")) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise CheckpointError(f"{path}: a line is not JSON ({e}); the file was changed by another program") from None


def cut_lines(path: Path, keep: Iterable[dict[str, Any]]) -> None:
    """Replace the file by these lines, atomically; nothing happens when it holds just them."""
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in keep).encode("utf-8", "surrogatepass")
    if path.exists() and path.read_bytes() != data:
        replace_file(path, data)


@contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process. Raises: StorageError where another one does."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StorageError(f"{folder}: {what} goes on there in another process; wait for it, or give another folder") from None
    try:
        yield
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
