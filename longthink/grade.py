"""Grading outside of training: one answer with `verify`, a file of rows with `longthink verify`."""

import atexit
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from longthink.errors import LongthinkError, TaskError
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.rewards.countdown import Countdown
from longthink.rewards.pool import RewardPool
from longthink.types import Verdict

__all__ = ["Row", "read_row", "verify", "verify_file", "verify_rows"]

AHEAD = 64  # rows a worker that are read before the first of them must be decided


class Row(NamedTuple):
    """A row to grade; instead of its verifier the verdict on a row that cannot be graded."""

    reward: Reward | Verdict
    response: str
    gold: Any


_lock = threading.Lock()
_pool: list[RewardPool] = []


def verify(kind: str, response: str, gold: Any, **options: Any) -> Verdict:
    """The verdict on one response, from a process that can be killed; `options` are the fields of the verifier.

    The first call starts that process, which lives until the program ends. Safe to call from several threads, one
    after another. Raises: RecipeError for an unknown kind or option; nothing for any response or gold.

    >>> verify("countdown", "<think>…</think> (3 + 7) * 12", {"numbers": [3, 7, 12], "target": 120}).score
    1.0
    """
    reward = load_part(Reward, {"kind": kind, **options})
    with _lock:
        if not _pool:
            _pool.append(RewardPool(reward, 1))
            atexit.register(_pool[0].close)
        _pool[0].submit("verify", response, gold, reward)
        return _pool[0].take("verify")


def read_row(row: Any) -> Row:
    """What a row of JSON `{"kind", "response", "gold", …options}` asks for; a verdict already where it asks for nothing."""
    try:
        if not isinstance(row, dict):
            raise TaskError(f"expected an object with kind, response and gold, got {type(row).__name__}")
        fields = dict(row)
        response, gold = fields.pop("response"), fields.pop("gold")
        if not isinstance(response, str):
            raise TaskError(f"response is {type(response).__name__}, expected text")
        return Row(_reward(json.dumps(fields, sort_keys=True)), response, gold)
    except (LongthinkError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"no {error} in the row" if isinstance(error, KeyError) else str(error)
        return Row(Verdict(None, "verifier_error", detail={"why": why[:300]}), "", None)


@lru_cache(1024)
def _reward(table: str) -> Reward:
    return load_part(Reward, json.loads(table))


def verify_rows(lines: Iterable[str], workers: int) -> Iterator[tuple[str, Verdict]]:
    """Kind and verdict of each line of JSON, in order."""
    waiting: deque[tuple[str, int | Verdict]] = deque()
    with RewardPool(Countdown(), workers) as pool:

        def decided(entry: tuple[str, int | Verdict]) -> tuple[str, Verdict]:
            kind, found = entry
            return kind, found if isinstance(found, Verdict) else pool.take(found)

        for number, line in enumerate(lines):
            try:
                reward, response, gold = read_row(json.loads(line))
            except (ValueError, RecursionError) as error:
                reward = Verdict(None, "verifier_error", detail={"why": f"not JSON: {error}"[:300]})
            if isinstance(reward, Verdict):
                waiting.append(("?", reward))
            else:
                pool.submit(number, response, gold, reward)
                waiting.append((reward.kind, number))
            if len(waiting) > AHEAD * workers:
                yield decided(waiting.popleft())
        while waiting:
            yield decided(waiting.popleft())


def verify_file(source: Path, out: Path, workers: int) -> str:
    """Write a verdict for every line of `source` to `out`, which appears whole or not at all; the summary to print.

    Raises: TaskError for a file that cannot be read or a folder that is not there.
    """
    if not source.is_file():
        raise TaskError(f"--in {source}: no such file; expected rows of JSON, one a line")
    if not out.parent.is_dir():
        raise TaskError(f"--out {out}: no such folder as {out.parent}")
    partial, started = out.with_name(out.name + ".partial"), time.monotonic()
    counts: Counter[tuple[str, str]] = Counter()
    scores: dict[str, list[float]] = {}
    try:
        with source.open(encoding="utf-8", errors="replace") as lines, partial.open("w") as file:
            for kind, verdict in verify_rows(track(lines, "verify"), workers):
                file.write(json.dumps(asdict(verdict), default=repr) + "\n")
                counts[kind, verdict.status] += 1
                if verdict.score is not None:
                    scores.setdefault(kind, []).append(verdict.score)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return summary(counts, scores, time.monotonic() - started)


def track(lines: Iterable[str], what: str) -> Iterator[str]:
    """The lines, with a live count of those read on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        for line in lines:
            yield line
            progress.advance(task)


def summary(counts: Counter[tuple[str, str]], scores: dict[str, list[float]], seconds: float) -> str:
    """Rows, mean score and statuses of each kind, and the rate."""
    lines = [f"{'kind':<14}{'rows':>9}{'mean score':>12}  statuses"]
    for kind in sorted({k for k, _ in counts}):
        statuses = {s: n for (k, s), n in sorted(counts.items()) if k == kind}
        mean = f"{sum(scores[kind]) / len(scores[kind]):.3f}" if kind in scores else "-"
        lines.append(f"{kind:<14}{sum(statuses.values()):>9,}{mean:>12}  " + ", ".join(f"{s} {n:,}" for s, n in statuses.items()))
    total = counts.total()
    lines.append(f"{total:,} verdicts in {seconds:.1f} s, {total / max(seconds, 1e-9):,.0f} a second")
    return "\n".join(lines)
