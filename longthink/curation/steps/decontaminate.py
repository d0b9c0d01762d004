"""Decontaminate: what benchmarks ask is not trained on."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from longthink.analysis.contamination import prompts_text
from longthink.curation.encoder import MINILM, Encoder, encoder_digest, encoder_folder
from longthink.curation.features import vectors
from longthink.curation.overlap import NEAR, Found, Overlap
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import RowStep, Work, put
from longthink.evaluation.protocols import read_protocol
from longthink.evaluation.suite import Suite, load_suites

__all__ = ["CLOSE", "Decontaminate", "benchmark_texts"]

CLOSE = 0.85  # docs/curation.md says what this and other cosines find
Floats = np.ndarray[Any, np.dtype[Any]]


class Decontaminate(RowStep):
    """Drops rows whose question a benchmark asks too, with the pair it found.

    words: the same words, numbers and operators whatever the typography, or at least `near` of the sequences of eight tokens of
    the shorter of the two; other numbers in the same words count as the same question. embedding: also a cosine of at least
    `least` between their vectors, which finds other words. Benchmarks are named as in `longthink eval --on`. Source: DeepScaleR
    1.4 compares its parts with each other but not with benchmarks: six of its training problems are in MATH-500.

    Example: `[[step]]` with `kind = "decontaminate"`, `against = ["all-local"]`, `data = "data"`.
    """

    against: tuple[str, ...] = Field(min_length=1, description="benchmarks of ours, their TOML files, data files, or all-local")
    data: Path = Field(Path("data"), description="a folder that holds benchmarks' rows")
    by: Literal["words", "embedding"] = "words"
    near: float = Field(NEAR, gt=0, le=1, description="share of sequences of eight tokens")
    least: float = Field(CLOSE, gt=0, le=1, description="cosine")
    encoder: str = Field(MINILM, description="a sentence encoder's folder, or its name on the hub")

    def reads(self) -> Mapping[str, str]:
        found = {suite.name: suite.sha256 for suite in _suites(self.against, self.data)}
        return found | ({"encoder": encoder_digest(self.encoder)} if self.by == "embedding" else {})

    def decide(self, row: Row) -> Row | Rejected:
        texts, there = _benchmarks(self.against, self.data, self.near)
        found = there.find(row.question)
        return row if found is None else _rejected(row, found, texts, "same" if found.share == 1.0 else "alike")

    def run(self, work: Work) -> None:
        _benchmarks.cache_clear()  # a file may have changed since
        if self.by == "words":
            super().run(work)
            return
        given, at = work.inputs[0], 0
        held = vectors(work, given, self.encoder)
        texts, _ = _benchmarks(self.against, self.data, self.near)
        ids = list(texts)
        theirs = Encoder(encoder_folder(self.encoder)).vectors(list(texts.values()))
        for number in given.numbers():
            rows = given.shard(number)
            if not work.out.is_whole(number):
                cosines = held[at : at + len(rows)].astype(theirs.dtype) @ theirs.T
                put(work.out, number, [self._either(r, ids, texts, c) for r, c in zip(rows, cosines, strict=True)])
            at += len(rows)

    def _either(self, row: Row, ids: list[str], texts: dict[str, str], cosines: Floats) -> Row | Rejected:
        """By words first, then by the vector."""
        decided, best = self.decide(row), int(cosines.argmax())
        if isinstance(decided, Rejected) or cosines[best] < self.least:
            return decided
        return _rejected(row, Found(ids[best], float(cosines[best])), texts, "close")


def _rejected(row: Row, found: Found, texts: dict[str, str], reason: str) -> Rejected:
    benchmark, _, problem = found.id.partition(" ")
    detail = {"benchmark": benchmark, "problem": problem, "text": texts[found.id], "score": round(found.share, 4)}
    return Rejected(row, reason, detail)


def _suites(against: tuple[str, ...], data: Path) -> list[Suite]:
    return load_suites(against, data, read_protocol("deepscaler"), {"kind": "math"})


def benchmark_texts(against: tuple[str, ...], data: Path) -> dict[str, str]:
    """Every problem's text by benchmark and id."""
    texts: dict[str, str] = {}
    for suite in _suites(against, data):
        problems = [{"id": p.id, "prompt": p.prompt} for p in map(suite.problem, range(suite.rows))]
        texts |= {f"{suite.name} {id}": text for id, text in prompts_text(problems).items()}
    return texts


@lru_cache(maxsize=1)
def _benchmarks(against: tuple[str, ...], data: Path, near: float) -> tuple[dict[str, str], Overlap]:
    texts = benchmark_texts(against, data)
    return texts, Overlap(texts, near)
