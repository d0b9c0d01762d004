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
from longthink.storage import make_folder
from longthink.types import Verdict

__all__ = ["Row", "read_row", "verify", "verify_file", "verify_rows"]

SHOWN = 3  # reasons in a summary
AHEAD = 64  # rows a worker that are read before the first of them must be decided


class Row(NamedTuple):
    """A row to grade; instead of its verifier the verdict on a row that cannot be graded. `id` is the row's own, if any."""

    kind: str
    reward: Reward | Verdict
    response: str
    gold: Any
    id: Any = None


_lock = threading.Lock()
_pool: list[RewardPool] = []


def verify(kind: str, response: str, gold: Any, **options: Any) -> Verdict:
    """The verdict on one response, from a process that can be killed; `options` are the fields of the verifier.

    The first call starts that process, which lives until the program ends. Safe to call from several threads, one
    after another. Raises: RecipeError for an unknown kind or option, TaskError for a response that is no text; nothing for any
    text or gold.

    >>> verify("countdown", "<think>…</think> (3 + 7) * 12", {"numbers": [3, 7, 12], "target": 120}).score
    1.0
    """
    if not isinstance(response, str):
        raise TaskError(f"response is {type(response).__name__}, expected text")
    reward = load_part(Reward, {"kind": kind, **options})
    with _lock:
        if not _pool:
            _pool.append(RewardPool(reward, 1))
            atexit.register(_pool[0].close)
        _pool[0].submit("verify", response, gold, reward)
        return _pool[0].take("verify")


def read_row(row: Any) -> Row:
    """What a row of JSON `{"kind", "response", "gold", "id"?, …fields}` asks for; a verdict where it asks for nothing."""
    fields = dict(row) if isinstance(row, dict) else {}
    kind, name = str(fields.get("kind", "?"))[:40], fields.pop("id", None)
    try:
        if not isinstance(row, dict):
            raise TaskError(f"expected an object with kind, response and gold, got {type(row).__name__}")
        response, gold = fields.pop("response"), fields.pop("gold")
        if not isinstance(response, str):
            raise TaskError(f"response is {type(response).__name__}, expected text")
        if kind == "file":  # data must not choose what is run here
            raise TaskError("a row cannot name a Python file to run; use it in a recipe, or longthink.verify")
        return Row(kind, _reward(json.dumps(fields, sort_keys=True)), response, gold, name)
    except (LongthinkError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"no {error} in the row" if isinstance(error, KeyError) else str(error)
        return Row(kind, Verdict(None, "verifier_error", detail={"why": why[:300]}), "", None, name)


@lru_cache(1024)
def _reward(table: str) -> Reward:
    return load_part(Reward, json.loads(table))


def verify_rows(lines: Iterable[str], workers: int) -> Iterator[tuple[Row, Verdict]]:
    """Each line of JSON as a row, with its verdict, in order."""
    waiting: deque[tuple[int, Row]] = deque()
    with RewardPool(Countdown(), workers) as pool:

        def decided(number: int, row: Row) -> tuple[Row, Verdict]:
            return row, row.reward if isinstance(row.reward, Verdict) else pool.take(number)

        for number, line in enumerate(lines):
            try:
                row = read_row(json.loads(line))
            except (ValueError, RecursionError) as error:
                why = f"not JSON: {error}"[:300]
                row = Row("?", Verdict(None, "verifier_error", detail={"why": why}), "", None)
            if isinstance(row.reward, Reward):
                pool.submit(number, row.response, row.gold, row.reward)
            waiting.append((number, row._replace(response="", gold=None)))
            if len(waiting) > AHEAD * workers:
                yield decided(*waiting.popleft())
        while waiting:
            yield decided(*waiting.popleft())


def verify_file(source: Path, out: Path, workers: int) -> str:
    """Write a verdict for every line of `source` to `out`, which appears whole or not at all; the summary to print.

    Raises: TaskError for a file that cannot be read or written, before any work.
    """
    if source.is_dir() or not source.exists():
        raise TaskError(f"--in {source}: no such file; expected rows of JSON, one a line")
    if out.is_dir() or (out.exists() and out.samefile(source)):
        raise TaskError(f"--out {out}: {'is a folder' if out.is_dir() else 'is the file of --in'}; name another file")
    make_folder(out.parent)
    partial, started = out.with_name(out.name + ".partial"), time.monotonic()
    counts: Counter[tuple[str, str]] = Counter()
    scores: dict[str, list[float]] = {}
    reasons: list[str] = []
    try:
        with source.open(encoding="utf-8", errors="replace") as lines, partial.open("w") as file:
            for number, (row, verdict) in enumerate(verify_rows(track(lines, "verify"), workers), 1):
                named = {} if row.id is None else {"id": row.id}
                file.write(json.dumps(named | asdict(verdict), default=repr) + "\n")
                counts[row.kind, verdict.status] += 1
                if verdict.score is not None:
                    scores.setdefault(row.kind, []).append(verdict.score)
                if verdict.status == "verifier_error":
                    reasons.append(f"line {number}: {verdict.detail.get('why')}" if len(reasons) < SHOWN else "")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    shown = [f"not graded, {reason}" for reason in reasons[:SHOWN]]
    more = [f"and {len(reasons) - SHOWN:,} more"] * (len(reasons) > SHOWN)
    return "\n".join([summary(counts, scores, time.monotonic() - started), *shown, *more])


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
