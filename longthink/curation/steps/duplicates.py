"""Duplicates: of rows that ask the same, the better labelled one stays."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from longthink.curation.encoder import MINILM, encoder_digest
from longthink.curation.features import Features, alike, features, vectors
from longthink.curation.neighbours import Pairs, close_vectors
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Input, Step, Work, put
from longthink.types import Ints

__all__ = ["Duplicates"]

LEAST = {"exact": 1.0, "minhash": 0.7, "embedding": 0.9}


class Duplicates(Step):
    """Drops rows whose question another row asks too: letter by letter, nearly so, or in other words.

    exact: the same words, numbers and operators, whatever the typography. minhash: at least `least` of their sequences of three
    in common. embedding: a cosine of at least `least` between their vectors. Exact ones always go first. Two rows whose numbers,
    or words in capitals, differ are two problems of one template, unless `values = "any"`. Of two the one with an answer stays,
    then the one with a solution, then that of the source named first in `prefer`, then the earlier one. A row is dropped only
    beside one that stays, never by a chain. Source: DeepScaleR 3.1 and its code, a cosine above 0.9 of all-MiniLM-L6-v2.

    Example: `[[step]]` with `kind = "duplicates"`, `by = "embedding"`.
    """

    by: Literal["exact", "minhash", "embedding"] = "minhash"
    least: float = Field(0.0, ge=0, le=1, description="how alike two must be; 0: 0.7 of minhash, 0.9 of embedding")
    encoder: str = Field(MINILM, description="a sentence encoder's folder, or its name on the hub")
    values: Literal["same", "any"] = "same"
    prefer: tuple[str, ...] = Field((), description="sources, the best labelled first")

    def reads(self) -> Mapping[str, str]:
        return {"encoder": encoder_digest(self.encoder)} if self.by == "embedding" else {}

    def run(self, work: Work) -> None:
        given = work.inputs[0]
        found = features(work, given)
        order = self._order(given)
        match, score = _exact(found, order)
        if self.by != "exact":
            _near(self._pairs(work, given, found), order, match, score)
        self._write(work, given, match, score)

    def _order(self, given: Input) -> Ints:
        """[n] each row's place when the best labelled come first."""
        places = {name: at for at, name in enumerate(self.prefer)}
        worth = [(row.answer is None, not row.solution, places.get(row.source, len(places))) for row in given.rows()]
        by_worth = sorted(range(len(worth)), key=lambda i: (worth[i], i))
        order = np.zeros(len(worth), np.int64)
        order[by_worth] = np.arange(len(worth))
        return order

    def _pairs(self, work: Work, given: Input, found: Features) -> Pairs:
        least, same = self.least or LEAST[self.by], self.values == "same"
        if self.by == "minhash":
            return alike(found, least, same_values=same)
        return close_vectors(vectors(work, given, self.encoder), least, work.seed, found.values if same else None)

    def _write(self, work: Work, given: Input, match: Sequence[int], score: Sequence[float]) -> None:
        wanted, shown = {m for m in match if m >= 0}, {}
        for at, row in enumerate(given.rows()):
            if at in wanted:
                shown[at] = row
        start = 0
        for number in given.numbers():
            rows = given.shard(number)
            if not work.out.is_whole(number):
                decided = [_decided(row, shown.get(match[start + i]), score[start + i]) for i, row in enumerate(rows)]
                put(work.out, number, decided)
            start += len(rows)


def _decided(row: Row, kept: Row | None, score: float) -> Row | Rejected:
    if kept is None:
        return row
    detail = {"of": kept.id, "question": kept.question, "score": round(score, 4), "same_answer": row.answer == kept.answer}
    return Rejected(row, "same" if score == 1.0 else "alike", detail)


def _exact(found: Features, order: Ints) -> tuple[list[int], list[float]]:
    """Of each row the one of the same text that stays, or -1, and 1 or 0."""
    best: dict[int, int] = {}
    for at, key in enumerate(found.keys.tolist()):
        if key not in best or order[at] < order[best[key]]:
            best[key] = at
    match = [-1 if best[key] == at else best[key] for at, key in enumerate(found.keys.tolist())]
    return match, [float(m >= 0) for m in match]


def _near(pairs: Pairs, order: Ints, match: list[int], score: list[float]) -> None:
    """Drop rows that are alike a row that stays, the best labelled decided first; exact ones are dropped already."""
    beside: dict[int, list[tuple[int, float]]] = {}
    for i, j, s in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.score.tolist(), strict=True):
        better, worse = (i, j) if order[i] < order[j] else (j, i)
        beside.setdefault(worse, []).append((better, s))
    for at in sorted(beside, key=lambda i: order[i]):
        stays = [(s, -order[other], other) for other, s in beside[at] if match[other] < 0]
        if match[at] < 0 and stays:
            best = max(stays)
            match[at], score[at] = best[2], min(best[0], 0.9999)
