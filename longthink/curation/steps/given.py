"""Given: responses that rows bring along, those that can be learnt from."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from longthink.curation.asking import Reply
from longthink.curation.responses import ChoosingStep
from longthink.curation.rows import Row
from longthink.curation.steps.base import Work, put
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool

__all__ = ["Given"]


class Given(ChoosingStep):
    """Keeps the response that a row has as its solution, where it is right and of a length: data that others have distilled.

    Tokens are those of `tokenizer`, a model's folder; without one, words. Source: STILL-3 4.1.1 takes 50k responses of
    OpenThoughts of a length and an accuracy that it does not tell.

    Example: `[[step]]` with `kind = "given"`, `most_tokens = 16384`, `tokenizer = "models/Qwen2.5-7B"`.
    """

    tokenizer: str = Field("", description="a model's folder, whose tokens are counted; empty counts words")
    model: str = Field("", description="who has written them, for the record")

    def run(self, work: Work) -> None:
        reward = load_part(Reward, self.reward, f"step {self.title}: reward")
        given, numbers = work.inputs[0], work.inputs[0].numbers()
        with RewardPool(reward, work.workers) as pool:
            for done, number in enumerate(numbers, 1):
                if not work.out.is_whole(number):
                    rows = given.shard(number)
                    put(work.out, number, self.chosen(rows, self._replies(rows), pool, self.model))
                work.tell(done, len(numbers))

    def _replies(self, rows: Sequence[Row]) -> list[list[Reply]]:
        texts = [row.solution for row in rows]
        if self.tokenizer:
            from longthink.folder import Tokenizer

            tokenizer = Tokenizer(Path(self.tokenizer))
            counts = [len(tokenizer.encode(text)) for text in texts]
        else:
            counts = [len(text.split()) for text in texts]
        return [[Reply(text, n, False)] if text else [] for text, n in zip(texts, counts, strict=True)]
