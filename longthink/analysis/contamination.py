"""Which benchmark problems are in the training data, letter by letter or nearly."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longthink.analysis.exhibit import Exhibit
from longthink.prompts import PROMPTS

__all__ = ["Match", "contamination", "matches", "plain", "prompts_text"]

WORDS = 8  # of a sequence that two problems share
NEAR = 0.5  # share of the shorter problem's sequences that the other has too


class Match(NamedTuple):
    """A benchmark problem and the training problem most like it: 1 for the same text, else the share of sequences in common."""

    problem: str
    training: str
    share: float
    text: str


def plain(text: str) -> str:
    r"""Small letters and digits alone: what is left when typography is not.

    >>> plain(r"Find $x$ in \(2x = 4\).")
    'findxin2x4'
    """
    return re.sub(r"[\W_]+", "", text.lower())


def matches(training: Mapping[str, str], benchmark: Mapping[str, str], near: float = NEAR) -> list[Match]:
    """The benchmark's problems that training has too, both as text by id; exact ones first, then by share.

    Exact: the same letters and digits. Near: of the sequences of eight words of the shorter of the two, at least half are the
    other's as well; a problem of fewer words is one sequence. A new number in an old text is near: look at it.
    """
    same = {plain(text): id for id, text in reversed(list(training.items()))}
    held: dict[tuple[str, ...], list[str]] = defaultdict(list)
    sizes = {}
    for id, text in training.items():
        grams = _grams(text)
        sizes[id] = len(grams)
        for gram in grams:
            held[gram].append(id)
    found = []
    for id, text in benchmark.items():
        if exact := same.get(plain(text)):
            found.append(Match(id, exact, 1.0, text))
            continue
        grams, common = _grams(text), defaultdict[str, int](int)
        for gram in grams:
            for other in held.get(gram, ()):
                common[other] += 1
        shares = {other: n / min(len(grams), sizes[other]) for other, n in common.items()}
        best = max(shares, key=lambda o: shares[o], default=None)
        if best is not None and shares[best] >= near:
            found.append(Match(id, best, min(shares[best], 0.999), text))
    return sorted(found, key=lambda m: (-m.share, m.problem))


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))} if words else set()


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
