"""Before anything of longthink is imported: shape annotations are checked, and one thread computes."""

import os
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


@pytest.fixture(scope="session")
def warm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's checkpoint that solves some Countdown problems of two numbers, made once; nobody writes into it."""
    from support import warm_model

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes of this suite
    with FileLock(root / "warm.lock"):
        if not (root / "warm.path").exists():
            (root / "warm.path").write_text(str(warm_model(root / "warm")))
    return Path((root / "warm.path").read_text())
