"""Language consistency: the share of a response's letters that belong to the scripts it should be written in."""

import unicodedata
from functools import lru_cache

from pydantic import Field, field_validator

from longthink.rewards.base import TextReward

__all__ = ["Language"]


class Language(TextReward):
    """Letters of the allowed scripts over all letters; 1 for a response without letters.

    A script is the first word of a letter's Unicode name. Greek is allowed beside Latin because mathematics writes it. This
    finds the drift that was observed, between Chinese and English; it does not tell English from French.
    Source: Open-RS B.3 (language drift, fought with a prompt there); DeepSeek-R1's language consistency reward counts words.

    >>> Language().score("Let α = 2."), Language().score("ab 因为")
    (1.0, 0.5)
    """

    scripts: tuple[str, ...] = Field(("LATIN", "GREEK"), min_length=1)

    @field_validator("scripts")
    @classmethod
    def _known(cls, scripts: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(s.upper() for s in scripts)
        if unknown := sorted(set(named) - all_scripts()):
            raise ValueError(
                f"no letter's Unicode name begins with {unknown[0]}; for example LATIN, GREEK, CYRILLIC, CJK, ARABIC"
            )
        return named

    def score(self, response: str) -> float:
        letters = [c for c in response if c.isalpha()]
        inside = sum((c.isascii() and "LATIN" in self.scripts) or script(c) in self.scripts for c in letters)
        return inside / len(letters) if letters else 1.0


@lru_cache(maxsize=1)
def all_scripts() -> set[str]:
    """The scripts of the letters of Unicode's first plane."""
    return {script(chr(i)) for i in range(0x10000) if chr(i).isalpha()} - {""}


@lru_cache(maxsize=100_000)
def script(letter: str) -> str:
    """The script of a letter: the first word of its name, "" for one without.

    >>> script("ж"), script("é"), script("ℝ")
    ('CYRILLIC', 'LATIN', 'LATIN')
    """
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "")
    return name.split(" ")[0].split("-")[0]
