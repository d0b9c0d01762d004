"""Distil: a teacher's responses to each question, those that can be learnt from."""

from pydantic import Field

from longthink.curation.asking import AskingStep, judged
from longthink.curation.responses import ChoosingStep
from longthink.curation.steps.base import Work
from longthink.part import load_part
from longthink.prompts import dress
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool

__all__ = ["Distill"]


class Distill(ChoosingStep, AskingStep):
    """Asks a model each question `samples` times and keeps the responses that are right, of a length, and unlike each other.

    With `settings = { tool = { … } }` a model of a folder runs the code it writes. Every sample is kept and used again. Source:
    STILL-3 3.3.1 (cold start from distilled chains of thought) and 4.4 (responses that contain code and end right).

    Example: `[[step]]` with `kind = "distill"`, `samples = 4`, `model = { path = "http://127.0.0.1:8000/v1", window = 16384 }`.
    """

    prompt: str = Field("bare", description="a prompt of longthink/prompts.py by name, for the teacher; it is not what is learnt")
    samples: int = Field(4, ge=1)

    def run(self, work: Work) -> None:
        reward = load_part(Reward, self.reward, f"step {self.title}: reward")
        with RewardPool(reward, work.workers) as pool:
            self.ask_each(
                work,
                lambda row: dress(self.prompt, [{"role": "user", "content": row.question}]),
                self.samples,
                lambda rows, replies: [
                    self.chosen(row, own, verdicts, self.model.name)
                    for row, own, verdicts in zip(rows, replies, judged(rows, replies, pool), strict=True)
                ],
            )
