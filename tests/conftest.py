"""Before anything of longthink is imported: shape annotations are checked, and one thread computes."""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from jaxtyping import install_import_hook

install_import_hook(["longthink.losses", "longthink.learners.head"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

# no deadline: a loaded machine is not a failing test; derandomized: the same examples everywhere
hypothesis.settings.register_profile("longthink", deadline=None, derandomize=True)
hypothesis.settings.load_profile("longthink")


def made_once(name: str, make: Callable[[Path], Path], factory: pytest.TempPathFactory) -> Path:
    """What `make` leaves in a folder that all processes of this suite share."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.path").exists():
            (root / name).mkdir()
            (root / f"{name}.path").write_text(str(make(root / name)))
    return Path((root / f"{name}.path").read_text())


@pytest.fixture(scope="session")
def warm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's checkpoint that solves some Countdown problems of two numbers, made once; nobody writes into it."""
    from support import warm_model

    return made_once("warm", warm_model, tmp_path_factory)


@pytest.fixture(scope="session")
def tool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's checkpoint that calls the interpreter, with problems beside it, made once; nobody writes into it."""
    from support import tool_model

    return made_once("tool", tool_model, tmp_path_factory)
