"""Before anything of longthink is imported: shape annotations are checked, and one thread computes."""

import hypothesis
from jaxtyping import install_import_hook

install_import_hook(["longthink.losses", "longthink.learners.head"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

# no deadline: a loaded machine is not a failing test; derandomized: the same examples everywhere
hypothesis.settings.register_profile("longthink", deadline=None, derandomize=True)
hypothesis.settings.load_profile("longthink")
