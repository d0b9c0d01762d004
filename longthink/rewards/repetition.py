"""Repetition: the share of a response's word sequences that it has already used."""

from pydantic import Field

from longthink.rewards.base import TextReward

__all__ = ["Repetition"]


class Repetition(TextReward):
    """-(1 - distinct / all) over the n-grams of lower-case words split at blanks; 0 where there are fewer words than n.

    Source: open-r1's repetition penalty, shipped unused with Open-RS (n = 3, at most -1; set `weight` for another bound).

    >>> Repetition(n=2).score("wait wait wait wait"), Repetition(n=2).score("so it is 7")
    (-0.6666666666666667, 0.0)
    """

    n: int = Field(3, ge=1, description="words of a sequence")

    def score(self, response: str) -> float:
        words = response.lower().split()
        grams = list(zip(*(words[i:] for i in range(self.n)), strict=False))
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0
