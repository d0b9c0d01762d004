"""Agreement: rows stay where another model comes to the same answer."""

from typing import ClassVar

from longthink.curation.steps.difficulty import Difficulty

__all__ = ["Agreement"]


class Agreement(Difficulty):
    """Asks a teacher, and drops rows whose answer it never (`zeros`) or too rarely (`least`) finds too.

    It works as `difficulty` does, and tells `agreement` in place of a pass rate. Source: NVIDIA 2, which keeps the STEM problems
    of SCP-116K on which DeepSeek-R1 and the given answer agree, 25K of 274K.

    Example: `[[step]]` with `kind = "agreement"`, `model = { path = "http://127.0.0.1:8000/v1" }`, `samples = 1`.
    """

    rate: ClassVar[str] = "agreement"

    samples: int = 1
    zeros: bool = False
