"""Reasoning actions: how often a response turns around, checks itself or tries another way (RRA)."""

import re

from pydantic import Field

from longthink.rewards.base import TextReward

__all__ = ["Actions"]


class Actions(TextReward):
    """min(A, most) / most, with A the number of action words in the response, whole words in any case.

    Source: STILL-3 4.2.1, RRA with its five words and bound of 20; its correctness of +1 or -1 is the part `accuracy` with
    `wrong = -1` beside this one.

    >>> Actions(most=4).score("Wait, 3 + 4 = 7. But is it? Waiting is no action.")
    0.5
    """

    words: tuple[str, ...] = Field(("however", "but", "wait", "verify", "alternatively"), min_length=1)
    most: int = Field(20, ge=1, description="words that give the whole reward")

    def score(self, response: str) -> float:
        pattern = rf"\b(?:{'|'.join(map(re.escape, self.words))})\b"
        return min(len(re.findall(pattern, response, re.IGNORECASE)), self.most) / self.most
