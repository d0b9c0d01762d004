"""`longthink doctor`: what this machine can run, and what it lacks."""

import importlib.metadata
import os
import platform
import shutil

from longthink.errors import SandboxError
from longthink.machine import fast_bf16, usable_cores
from longthink.sandbox.client import Sandbox

__all__ = ["report"]

NEEDED = ("torch", "transformers", "math-verify", "pint", "langdetect", "pyarrow")
OPTIONAL = {"reasoning-gym": "puzzles", "tensorboard": "tensorboard"}
LEVELS = {
    "namespaces": "no network, no new processes, no files but Python's own, system calls by a list, other processes unseen",
    "landlock": "no network, no new processes, no files but Python's own, system calls by a list",
    "seccomp": "no network, no new processes, system calls by a list; the files its user can read are readable",
    "none": "limits on memory, time and output only: run no program you do not trust",
}


def report() -> str:
    """One line a subject, in plain words; takes the seconds that starting a sandbox and importing torch need."""
    rows = [
        ("longthink", f"{importlib.metadata.version('longthink')}, Python {platform.python_version()}, {platform.platform()}"),
        ("processor", _processor()),
        ("memory", _memory()),
        ("accelerator", _accelerator()),
        ("packages", ", ".join(map(_package, NEEDED))),
        ("", ", ".join(_optional(name, extra) for name, extra in OPTIONAL.items())),
        *_sandbox(),
    ]
    return "\n".join(f"{name:<14}{text}" for name, text in rows)


def _processor() -> str:
    bf16 = "bf16 in hardware" if fast_bf16() else "no bf16 in hardware: models compute in fp32"
    return f"{usable_cores()} cores ({platform.machine()}), {bf16}"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free; {shutil.disk_usage('.').free / 2**30:.0f} GiB of disk free here"


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch sees: the quickstart and models up to some 100 M parameters run on the processor"
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{p.name} with {p.total_memory / 2**30:.0f} GiB" for p in names)


def _package(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} MISSING"


def _optional(name: str, extra: str) -> str:
    found = _package(name)
    return found if "MISSING" not in found else f"no {name} (pip install 'longthink[{extra}]')"


def _sandbox() -> list[tuple[str, str]]:
    """The isolation level programs run at, and why each higher one is out of reach."""
    try:
        with Sandbox(lowest="none") as sandbox:
            level, facts = sandbox.level, sandbox.facts
    except SandboxError as error:
        return [("sandbox", f"does not start: {error}")]
    user = "as another user" if facts["uid"] is not None else "as this user"
    rows = [("sandbox", f"{level}, {user}: {LEVELS[level]}")]
    if level in ("none", "seccomp"):
        rows.append(("", "below what code and puzzle rewards ask for; set reward.sandbox lower only for programs you trust"))
    return rows + [(f"  {name}", f"refused here: {why}") for name, why in facts["failures"].items()]
