"""Which benchmark problems are in the training data, letter by letter or nearly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longthink.analysis.exhibit import Exhibit
from longthink.curation.overlap import Overlap
from longthink.prompts import PROMPTS

__all__ = ["Match", "contamination", "matches", "prompts_text"]


class Match(NamedTuple):
    """A benchmark problem and the training problem most like it: 1 for the same text, else the share of sequences in common."""

    problem: str
    training: str
    share: float
    text: str


def matches(training: Mapping[str, str], benchmark: Mapping[str, str]) -> list[Match]:
    """The benchmark's problems that training has too (`Overlap`), both as text by id; exact ones first, then by share."""
    there = Overlap(training)
    found = [Match(id, near.id, near.share, text) for id, text in benchmark.items() if (near := there.find(text))]
    return sorted(found, key=lambda m: (-m.share, m.problem))


def contamination(training: Mapping[str, str], benchmarks: Mapping[str, Mapping[str, str]]) -> Exhibit:
    """The matches of every benchmark, with the text they are about."""
    rows, said = [], []
    for name, problems in benchmarks.items():
        found = matches(training, problems)
        exact = sum(m.share == 1.0 for m in found)
        said.append(f"{name}: {exact} of {len(problems)} problems are in the training data, {len(found) - exact} nearly")
        rows += [(name, m.problem, m.training, m.share, " ".join(m.text.split())[:160]) for m in found]
    columns = ("benchmark", "problem", "training problem", "share", "text")
    return Exhibit("contamination", "Benchmark problems in the training data", "", columns, rows, "; ".join(said))


def prompts_text(problems: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The user's text of each problem, by id, without the instructions that training data carries behind its questions."""
    found = {}
    for problem in problems:
        text = _last_user(problem["prompt"]).strip()
        for prompt in PROMPTS.values():
            text = text.removesuffix(prompt.suffix.strip()).strip()
        found[str(problem["id"])] = text
    return found


def _last_user(prompt: object) -> str:
    assert isinstance(prompt, Sequence)
    return next((str(m["content"]) for m in reversed(prompt) if m["role"] in ("user", "text")), "")
