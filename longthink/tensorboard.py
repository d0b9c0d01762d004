"""TensorBoard as a second sink: metrics.jsonl stays the truth, this is a view of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longthink.errors import RecipeError

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes each row's numbers as scalars. A resumed run starts a new event file at its step."""

    def __init__(self, run: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RecipeError(
                "tensorboard = true, but the package is not installed: pip install 'longthink[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row at its step."""
        for key, value in row.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()
