"""Which of many texts a text is the same as, or shares most of its words with."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from longthink.curation.text import grams, plain, tokens

__all__ = ["NEAR", "WORDS", "Found", "Overlap"]

WORDS = 8  # tokens of a sequence that two texts share
NEAR = 0.5  # share of the shorter text's sequences that the other has too


class Found(NamedTuple):
    """The text most like another: 1 for the same, else the share of sequences in common."""

    id: str
    share: float


class Overlap:
    """Texts by id, ready to be looked up.

    The same: the same words, numbers and operators in the same order, whatever the typography. Alike: of the sequences of eight
    tokens of the shorter of the two, at least half (`near`) are the other's as well; a text of fewer is one sequence. A new
    number in an old text is alike: look at it.
    """

    def __init__(self, texts: Mapping[str, str], near: float = NEAR) -> None:
        self.near = near
        self._same: dict[str, str] = {}
        self._held: dict[str, list[str]] = defaultdict(list)
        self._sizes: dict[str, int] = {}
        for id, text in texts.items():
            found = tokens(text)
            self._same.setdefault(plain(found), id)
            sequences = grams(found, WORDS)
            self._sizes[id] = len(sequences)
            for sequence in sequences:
                self._held[sequence].append(id)

    def find(self, text: str) -> Found | None:
        """The text most like this one, the first among equals, or None where none is alike."""
        found = tokens(text)
        if not found:
            return None
        if (same := self._same.get(plain(found))) is not None:
            return Found(same, 1.0)
        sequences, common = grams(found, WORDS), Counter[str]()
        for sequence in sequences:
            common.update(self._held.get(sequence, ()))
        shares = {id: n / min(len(sequences), self._sizes[id]) for id, n in common.items()}
        best = max(shares, key=lambda id: shares[id], default=None)
        return Found(best, min(shares[best], 0.999)) if best is not None and shares[best] >= self.near else None
