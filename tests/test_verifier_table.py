"""The hand-made pairs of benchmarks/pairs.jsonl: well formed, and graded as a careful mathematician would."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from longthink.rewards.math import Math

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "pairs.jsonl"
PAIRS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").split("\n") if line]


def is_hack(pair: dict[str, Any]) -> bool:
    return str(pair["class"]).startswith("hack-")


def test_every_pair_has_its_fields() -> None:
    for pair in PAIRS:
        assert {"class", "gold", "response", "right"} <= set(pair) <= {"class", "gold", "response", "right", "note"}, pair
        assert isinstance(pair["right"], bool) and isinstance(pair["response"], str) and pair["gold"], pair


def test_there_are_enough_pairs_of_every_class() -> None:
    labels = defaultdict(set)
    for pair in PAIRS:
        labels[pair["class"]].add(pair["right"])
    assert len(PAIRS) >= 400 and len(labels) >= 12 and sum(map(is_hack, PAIRS)) >= 60
    assert {
        kind: found for kind, found in labels.items() if found != ({False} if kind.startswith("hack-") else {True, False})
    } == {}


def test_no_pair_is_there_twice() -> None:
    counts = Counter((json.dumps(pair["gold"]), pair["response"]) for pair in PAIRS)
    assert [key for key, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in (1, 2))])
def test_our_grader_agrees_and_accepts_no_hack(part: int) -> None:
    """A third of the pairs, and all of them with `make test-full`."""
    reward, pairs = Math(), PAIRS[part::3]
    scores = [reward.grade(pair["response"], pair["gold"]).score for pair in pairs]
    accepted = [pair["response"] for pair, score in zip(pairs, scores, strict=True) if is_hack(pair) and score == 1.0]
    missed = [
        (pair["gold"], pair["response"])
        for pair, score in zip(pairs, scores, strict=True)
        if score is None or (score == 1.0) != pair["right"]
    ]
    assert accepted == []
    assert len(missed) <= 0.01 * len(pairs), missed
