"""Agreement of every maths grader with hand-made labels: `make verifier-table`.

Each line of benchmarks/pairs.jsonl is a gold answer, a whole response and whether a careful mathematician would call it
right; the labels were written before any grader saw the pairs. A verdict without a score agrees with no label.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from longthink.rewards.math import Math
from longthink.rewards.pool import RewardPool
from longthink.types import Verdict

HERE = Path(__file__).resolve().parent
PAIRS, TABLE = HERE / "pairs.jsonl", HERE / "results" / "verifier_table.md"
GRADERS: tuple[str, ...] = get_args(Math.model_fields["grader"].annotation)
HACK = "hack-"
MIN_AGREEMENT = 0.99
MAX_SHOWN = 100  # characters of a response in the list of misses


@dataclass(frozen=True)
class Pair:
    """A response and its label; `kind` is the class of the pair."""

    kind: str
    gold: Any
    response: str
    right: bool
    note: str = ""

    @property
    def is_hack(self) -> bool:
        return self.kind.startswith(HACK)


Verdicts = dict[str, list[Verdict]]  # by grader, in the order of the pairs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verifier_table.py", description=__doc__)
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.relative_to(HERE.parent)}")
    args = parser.parse_args(argv)
    pairs = read_pairs(args.pairs)
    verdicts = grade(pairs)
    text = "\n".join([*table(pairs, verdicts), "", *misses(pairs, verdicts, "ours")])
    print("\n".join([text, *(line for g in GRADERS[1:] for line in ("", *misses(pairs, verdicts, g)))]))
    if args.write:
        TABLE.write_text(text + "\n")
    failure = shortfall(pairs, verdicts["ours"])
    if failure:
        print(f"verifier_table.py: {failure}", file=sys.stderr)
    return 1 if failure else 0


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, a JSON object a line."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [Pair(row["class"], row["gold"], row["response"], row["right"], row.get("note", "")) for row in rows]


def grade(pairs: Sequence[Pair]) -> Verdicts:
    """Every pair by every grader, as training grades them: in worker processes, under a deadline."""
    rewards = {grader: Math.model_validate({"grader": grader}) for grader in GRADERS}
    with RewardPool(rewards["ours"], 2) as pool:
        for grader, reward in rewards.items():
            for index, pair in enumerate(pairs):
                pool.submit((grader, index), pair.response, pair.gold, reward)
        verdicts = pool.drain()
    return {grader: [verdicts[grader, index] for index in range(len(pairs))] for grader in GRADERS}


def agrees(pair: Pair, verdict: Verdict) -> bool:
    return verdict.score is not None and (verdict.score == 1.0) == pair.right


def accepted_hacks(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> int:
    return sum(pair.is_hack and verdict.score == 1.0 for pair, verdict in zip(pairs, verdicts, strict=True))


def agreement(pairs: Sequence[Pair], verdicts: Sequence[Verdict], kind: str = "") -> str:
    """The share of the pairs of a class, or of all, on which verdict and label agree."""
    found = [agrees(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True) if kind in ("", pair.kind)]
    return f"{sum(found)}/{len(found)} ({100 * sum(found) / len(found):.1f}%)"


def table(pairs: Sequence[Pair], verdicts: Verdicts) -> list[str]:
    """A row a class, then all pairs, then how many of the hacks are taken for right answers."""
    kinds = {pair.kind: sum(other.kind == pair.kind for other in pairs) for pair in pairs}
    lines = ["| class | pairs | " + " | ".join(GRADERS) + " |", "|---" * (2 + len(GRADERS)) + "|"]
    for name, kind, num_pairs in [*((kind, kind, count) for kind, count in kinds.items()), ("**all**", "", len(pairs))]:
        lines.append(row(name, num_pairs, [agreement(pairs, verdicts[grader], kind) for grader in GRADERS]))
    num_hacks = sum(pair.is_hack for pair in pairs)
    accepted = [str(accepted_hacks(pairs, verdicts[grader])) for grader in GRADERS]
    return [*lines, row("**hacks accepted**", num_hacks, accepted)]


def row(name: str, num_pairs: int, cells: Sequence[str]) -> str:
    return f"| {name} | {num_pairs} | " + " | ".join(cells) + " |"


def misses(pairs: Sequence[Pair], verdicts: Verdicts, grader: str) -> list[str]:
    """Where the grader and the label differ."""
    missed = [(p, v) for p, v in zip(pairs, verdicts[grader], strict=True) if not agrees(p, v)]
    lines = [f"Misses of {grader}: {len(missed)}", ""]
    for pair, verdict in missed:
        shown = " ".join(pair.response.split())
        shown = shown if len(shown) <= MAX_SHOWN else "…" + shown[-MAX_SHOWN:]
        label = "right" if pair.right else "wrong"
        lines.append(f"- {pair.kind}: gold `{pair.gold}`, response `{shown}`: {label}, got {verdict.score} ({verdict.status})")
    return lines


def shortfall(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> str:
    """What keeps a grader from passing; empty if it passes."""
    share = sum(agrees(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)) / len(pairs)
    num_accepted = accepted_hacks(pairs, verdicts)
    if share >= MIN_AGREEMENT and not num_accepted:
        return ""
    return f"ours agrees on {100 * share:.2f}% (at least {100 * MIN_AGREEMENT:.0f}% wanted) and accepts {num_accepted} hacks"


if __name__ == "__main__":
    sys.exit(main())
