"""Split: rows for validation that no training row is like."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from longthink.curation.encoder import MINILM, encoder_digest
from longthink.curation.features import Features, alike, features, vectors
from longthink.curation.neighbours import Pairs, close_vectors
from longthink.curation.steps.base import Step, Work, put
from longthink.errors import RecipeError
from longthink.rng import rng
from longthink.types import Ints

__all__ = ["Split"]

LEAST = {"minhash": 0.5, "embedding": 0.85}


class Split(Step):
    """Sets rows aside for validation; rows that are alike, even by a chain, all go to one side. No row is dropped.

    Alike: the same text, or as in `duplicates`, at a lower bar and whatever their numbers: problems of one template belong
    together. Groups are drawn by the seed until there are enough rows; one that would go beyond `rows` is passed over.

    Example: `[[step]]` with `kind = "split"`, `rows = 500`.
    """

    rows: int = Field(ge=1, description="of validation")
    by: Literal["minhash", "embedding"] = "minhash"
    least: float = Field(0.0, ge=0, le=1, description="how alike two must be; 0: 0.5 of minhash, 0.85 of embedding")
    encoder: str = Field(MINILM, description="a sentence encoder's folder, or its name on the hub")

    def reads(self) -> Mapping[str, str]:
        return {"encoder": encoder_digest(self.encoder)} if self.by == "embedding" else {}

    def run(self, work: Work) -> None:
        given = work.inputs[0]
        found = features(work, given)
        if len(found.keys) <= self.rows:
            raise RecipeError(f"step {self.title}: {self.rows} rows for validation of {len(found.keys)} leave none to train on")
        least = self.least or LEAST[self.by]
        if self.by == "minhash":
            pairs = alike(found, least)
        else:
            pairs = close_vectors(vectors(work, given, self.encoder), least, work.seed)
        aside = self._aside(_groups(found, pairs), work.seed)
        at = 0
        for number in given.numbers():
            rows = given.shard(number)
            if not work.out.is_whole(number):
                sides = ["validation" if at + i in aside else "train" for i in range(len(rows))]
                put(work.out, number, [row.found(self.title, {"split": s}) for row, s in zip(rows, sides, strict=True)])
            at += len(rows)

    def _aside(self, group: Ints, seed: int) -> set[int]:
        """The rows of groups that are drawn for validation."""
        members: dict[int, list[int]] = {}
        for row, name in enumerate(group.tolist()):
            members.setdefault(name, []).append(row)
        names, found = list(members), set[int]()
        for at in rng(seed, "split", self.title).permutation(len(names)).tolist():
            if len(found) + len(members[names[at]]) <= self.rows:
                found |= set(members[names[at]])
        return found


def _groups(found: Features, pairs: Pairs) -> Ints:
    """[n] the first row of each row's group: those joined by a pair, or by the same text."""
    first = np.arange(len(found.keys))

    def head(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        return row

    seen: dict[int, int] = {}
    same = [(seen.setdefault(key, row), row) for row, key in enumerate(found.keys.tolist())]
    for a, b in [*same, *zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]:
        low, high = sorted((head(a), head(b)))
        first[high] = low
    return np.array([head(row) for row in range(len(first))], np.int64)
