"""An evaluation's folder: what was asked, every sample, and what they amount to.

`eval.json` is written first and says what is asked of which model; `problems.jsonl` holds the problems, `samples.jsonl` a
line for every sample, in the order they were decided until all are there, then in that of the problems; `summary.json` comes
last.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from longthink import storage
from longthink.errors import CheckpointError, TaskError
from longthink.types import Rollout, Verdict

__all__ = ["Answers", "Evaluated", "Sample", "is_evaluation", "read_evaluation", "sample_row", "verdict_row", "voted"]

FACTS, PROBLEMS, SAMPLES, SUMMARY = "eval.json", "problems.jsonl", "samples.jsonl", "summary.json"


class Sample(NamedTuple):
    """One response and its verdict. `score` is None where our side failed; `vote` names its class of answers, None for none."""

    number: int
    text: str
    tokens: int
    finish_reason: str
    score: float | None
    status: str
    extracted: str | None = None
    lenient: float | None = None
    vote: int | None = None
    calls: tuple[str, ...] = ()  # how its calls of the tool ended

    @property
    def solved(self) -> bool:
        return (self.score or 0.0) >= 1.0

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Answers:
    """A benchmark's problems, with id, prompt, gold and labels, and their samples, row by row."""

    name: str
    facts: Mapping[str, Any]
    problems: Sequence[Mapping[str, Any]]
    samples: Sequence[Sequence[Sample]]

    @property
    def graded(self) -> list[list[Sample]]:
        """Each problem's samples that have a score; problems without one are left out."""
        rows = [[s for s in row if s.score is not None] for row in self.samples]
        return [row for row in rows if row]

    @property
    def scores(self) -> list[list[float]]:
        return [[s.score for s in row if s.score is not None] for row in self.graded]

    @property
    def every(self) -> list[Sample]:
        """All samples."""
        return [s for row in self.samples for s in row]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation read from its folder."""

    folder: Path
    facts: Mapping[str, Any]
    sets: Mapping[str, Answers]

    @property
    def name(self) -> str:
        """What figures call it."""
        return str(self.facts.get("name") or self.folder.name)

    @property
    def window(self) -> int:
        return int(self.facts["window"])

    @property
    def until(self) -> float:
        """Half the width of the interval that was sampled for; 0 where every problem has the same number of samples."""
        return float(self.facts.get("until", 0.0))

    def first(self, count: int) -> "Evaluated":
        """With the first so many samples of every problem alone: what depends on no sample, where more were taken until tight."""
        sets = {
            name: replace(answers, samples=[[s for s in row if s.number < count] for row in answers.samples])
            for name, answers in self.sets.items()
        }
        return Evaluated(self.folder, {**self.facts, "until": 0.0}, sets)


def is_evaluation(folder: Path) -> bool:
    """Whether `longthink eval` has written there."""
    return (folder / FACTS).is_file()


def is_finished(folder: Path) -> bool:
    """Whether an evaluation has all it was asked for: its summary is written last, and taken away when more is asked."""
    return (folder / SUMMARY).is_file()


def sample_row(benchmark: str, problem: int, number: int, rollout: Rollout, verdict: Verdict) -> dict[str, Any]:
    """A sample's line."""
    row = {"benchmark": benchmark, "problem": problem, "sample": number, "tokens": rollout.num_tokens}
    calls = {"calls": [call.status for call in rollout.calls]} if rollout.calls else {}
    return row | {"finish_reason": rollout.finish_reason} | verdict_row(verdict) | calls | {"text": rollout.text}


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict's part of the line."""
    detail = json.loads(json.dumps(dict(verdict.detail), default=repr), parse_constant=str)  # no NaN in a line
    return {"score": verdict.score, "status": verdict.status, "extracted": verdict.extracted, "detail": detail}


def read_evaluation(folder: Path) -> Evaluated:
    """The samples that were asked for last; more that lie there are of another -n.

    Raises: CheckpointError for a folder that is none or was changed; TaskError for one without a sample.
    """
    facts = read_facts(folder)
    problems = storage.read_lines(folder / PROBLEMS)
    rows = storage.read_lines(folder / SAMPLES)
    if not rows:
        raise TaskError(f"{folder}: no sample is there yet; run the same `longthink eval` again")
    sets: dict[str, Answers] = {}
    asked = math.inf if facts.get("until") else facts.get("samples", math.inf)
    try:
        for name, what in facts["benchmarks"].items():
            own = [p for p in problems if p["benchmark"] == name]
            samples: list[list[Sample]] = [[] for _ in own]
            whole = {
                (row["problem"], row["sample"]): row
                for row in reversed(rows)
                if row["benchmark"] == name and row["sample"] < asked
            }
            for at, row in sorted(whole.items()):
                samples[at[0]].append(_sample(row))
            unvoted = any("vote" not in row for row in whole.values())
            sets[name] = Answers(name, what, own, [voted(given) for given in samples] if unvoted else samples)
        return Evaluated(folder, facts, sets)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(
            f"{folder}: not as `longthink eval` writes it ({type(e).__name__}: {e}); evaluate into another"
        ) from None


def voted(samples: Sequence[Sample]) -> list[Sample]:
    """One problem's samples with votes by their answers' texts, those of full score as one: where votes were not counted yet."""
    first: dict[object, int] = {}
    return [
        s if s.extracted is None else s._replace(vote=first.setdefault(True if s.solved else s.extracted, s.number))
        for s in samples
    ]


def _sample(row: Mapping[str, Any]) -> Sample:
    lenient = row["detail"].get("lenient")
    verdict = (row["score"], row["status"], row["extracted"], lenient, row.get("vote"))
    return Sample(
        int(row["sample"]), row["text"], int(row["tokens"]), row["finish_reason"], *verdict, tuple(row.get("calls", ()))
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """What was asked. Raises: CheckpointError where there is nothing to be read."""
    path = folder / FACTS
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not an evaluation; expected the folder of a `longthink eval` ({FACTS} in it)") from None
    except (ValueError, OSError, TypeError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}); evaluate into another folder") from None
