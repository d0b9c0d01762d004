"""Distil: a teacher's responses to each question, those that can be learnt from."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from longthink.curation.asking import GradingStep, Reply
from longthink.curation.responses import ChoosingStep
from longthink.curation.rows import Rejected, Row
from longthink.rewards.pool import RewardPool

__all__ = ["Distill"]


class Distill(ChoosingStep, GradingStep):
    """Asks a model each question `samples` times and keeps the responses that are right, of a length, and unlike each other.

    With `settings = { tool = { … } }` a model of a folder runs the code it writes. Every sample is kept and used again. Source:
    STILL-3 3.3.1 (cold start from distilled chains of thought) and 4.4 (responses that contain code and end right).

    Example: `[[step]]` with `kind = "distill"`, `samples = 4`, `model = { path = "http://127.0.0.1:8000/v1", window = 16384 }`.
    """

    prompt: str = Field("bare", description="a prompt of longthink/prompts.py by name, for the teacher; it is not what is learnt")

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        tool = self.model.settings.get("tool")
        written = tool.get("format", "still") if isinstance(tool, dict) else self.format
        if written != self.format:
            raise ValueError(f"format is {self.format!r}, and the model's settings.tool.format {written!r}; expected the same")
        return self

    def decided(self, pool: RewardPool, rows: Sequence[Row], replies: Sequence[Sequence[Reply]]) -> list[Row | Rejected]:
        return self.chosen(rows, replies, pool, self.model.name)
