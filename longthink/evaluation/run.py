"""`longthink eval`: sample a model on benchmarks, keep every sample as it is graded, go on where it was interrupted."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.collect import Scored
from longthink.engines.base import Stream
from longthink.engines.served import SEEDS
from longthink.errors import CheckpointError, LongthinkError, TaskError
from longthink.evaluation.models import Model
from longthink.evaluation.protocols import Protocol
from longthink.evaluation.results import (
    FACTS,
    PROBLEMS,
    SAMPLES,
    SUMMARY,
    Answers,
    Sample,
    is_evaluation,
    read_evaluation,
    read_facts,
    sample_row,
    verdict_row,
)
from longthink.evaluation.scores import by_domain, summary
from longthink.evaluation.suite import Suite
from longthink.evaluation.until import FIRST, MOST, plan
from longthink.evaluation.votes import classes
from longthink.progress import Progress
from longthink.rewards.base import Reward
from longthink.rewards.pool import Grader, RewardPool
from longthink.rng import derive_seed
from longthink.types import Request, Rollout, RolloutId, Sampling, Verdict

__all__ = ["evaluate_suites", "table"]

OURS = (".lock", FACTS, PROBLEMS, SAMPLES, SUMMARY, *(f".{name}.tmp" for name in (FACTS, PROBLEMS, SAMPLES, SUMMARY)))
AT_ONCE, EVERY_S = 64, 2.0  # samples written together, unless they are slow


class Evaluation:
    """One evaluation in its folder: what is there, what is missing, and how more is added."""

    def __init__(self, folder: Path, suites: Sequence[Suite], protocol: Protocol, model: Model, problems: int, seed: int) -> None:
        self.folder, self.suites, self.protocol, self.model, self.seed = folder, suites, protocol, model, seed
        self.problems = [[s.problem(i) for i in range(min(s.rows, problems))] for s in suites]
        self.prompts = [[model.prompt(p) for p in row] for row in self.problems]
        self.first = list(accumulate(map(len, self.problems[:-1]), initial=0))  # the number of each benchmark's first problem

    def asked(self) -> dict[str, Any]:
        """What is asked of which model. Raises: CheckpointError where the folder is of something else."""
        drawn = self.protocol.model_dump(include={"temperature", "top_p", "top_k", "window", "truncated"})
        asked: dict[str, Any] = {"protocol": self.protocol.title, **self.model.facts, **drawn, "seed": self.seed}
        asked["benchmarks"] = {s.name: s.facts() for s in self.suites}
        asked["problems"] = {s.name: len(p) for s, p in zip(self.suites, self.problems, strict=True)}
        asked = dict(json.loads(json.dumps(asked)))
        head = {**self.model.where, "samples": self.protocol.samples, "until": self.protocol.until}
        if is_evaluation(self.folder):
            there = read_facts(self.folder)
            for key, value in asked.items():
                if there.get(key) != value:
                    raise CheckpointError(
                        f"{self.folder}: holds an evaluation with another {_difference(key, there.get(key), value)}; "
                        "give the same arguments to go on, or another --out"
                    )
        return head | asked

    def open(self, asked: dict[str, Any]) -> None:
        """Write what is asked, and take away what a kill or a server has left half done, and the summary of before."""
        rows = []
        for suite, problems in zip(self.suites, self.problems, strict=True):
            for p in problems:
                facts = {"benchmark": suite.name, "id": p.id, "prompt": [dict(m) for m in p.prompt], "gold": p.gold}
                rows.append(facts | {"labels": suite.labels(p)})
        data = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        (self.folder / SUMMARY).unlink(missing_ok=True)
        storage.replace_file(self.folder / FACTS, json.dumps(asked, indent=1).encode())
        storage.replace_file(self.folder / PROBLEMS, data.encode("utf-8", "surrogatepass"))
        kept = [row for row in storage.read_lines(self.folder / SAMPLES) if row["finish_reason"] != "aborted"]  # asked again
        storage.cut_lines(self.folder / SAMPLES, kept)

    def grade_again(self, pool: Grader) -> None:
        """Give samples without a score to their verifier again: what failed on our side may have been mended."""
        rows = storage.read_lines(self.folder / SAMPLES)
        by_name = {s.name: (s, problems) for s, problems in zip(self.suites, self.problems, strict=True)}
        for number, row in enumerate(rows):
            if row["score"] is None:
                suite, problems = by_name[row["benchmark"]]
                pool.submit(number, row["text"], problems[row["problem"]].gold, suite.reward)
        for at, verdict in pool.drain().items():
            assert isinstance(at, int)
            rows[at] |= verdict_row(verdict)
        storage.cut_lines(self.folder / SAMPLES, rows)

    def answers(self) -> dict[str, Answers]:
        """What is there of each benchmark."""
        if (self.folder / SAMPLES).exists() and (self.folder / SAMPLES).stat().st_size:
            return dict(read_evaluation(self.folder).sets)
        return {
            s.name: Answers(s.name, {}, [{}] * len(p), [[]] * len(p)) for s, p in zip(self.suites, self.problems, strict=True)
        }

    def missing(self) -> list[Request]:
        """The requests for what is not there and is wanted, as far as can be said now."""
        requests, there = [], self.answers()
        sampling = Sampling(self.protocol.temperature, self.protocol.top_p, self.protocol.top_k)
        for number, suite in enumerate(self.suites):
            rows = there[suite.name].samples
            wanted = [self.protocol.samples] * len(rows)
            if self.protocol.until:
                self._refuse_shares(suite.name, rows)
                known = [[s for at, s in enumerate(row) if s.number == at] for row in rows]  # up to the first that is not there
                graded = [[s.solved for s in row if s.score is not None] for row in known]
                able = [bool(own) or len(row) < FIRST for own, row in zip(graded, known, strict=True)]  # not one that never is
                counted = iter(plan([own for own, can in zip(graded, able, strict=True) if can], self.protocol.until).wanted)
                wanted = [
                    next(counted) + sum(s.score is None for s in row) if can else len(row)
                    for row, can in zip(known, able, strict=True)
                ]
            for index, (row, most) in enumerate(zip(rows, wanted, strict=True)):
                held = {s.number for s in row}
                for sample in range(most):
                    if sample not in held:
                        draw = derive_seed(self.seed, "eval", suite.name, index, sample) % SEEDS
                        id = RolloutId(self.first[number] + index, sample)
                        problem, ids = replace(self.problems[number][index], domain=suite.name), self.prompts[number][index]
                        requests.append(Request(id, problem, ids, self.protocol.window, sampling, draw))
        return requests

    @staticmethod
    def _refuse_shares(name: str, rows: Sequence[Sequence[Sample]]) -> None:
        if any(0.0 < (s.score or 0.0) < 1.0 for row in rows for s in row):
            raise TaskError(
                f"{name}: its scores are shares, and --until counts what is solved or not; give -n instead (every sample is kept)"
            )

    def keep(self, scored: Sequence[Scored]) -> None:
        """Append samples."""
        first = {s.name: at for s, at in zip(self.suites, self.first, strict=True)}
        storage.append_lines(
            self.folder / SAMPLES,
            [sample_row(r.problem.domain, r.id.group - first[r.problem.domain], r.id.sample, r, v) for r, v in scored],
        )

    def close(self, pool: Grader) -> dict[str, Any]:
        """Put the samples in order, with their votes, and write the summary."""
        votes: dict[tuple[str, int, int], int | None] = {}
        there = self.answers()
        for suite in self.suites:
            rows = there[suite.name].samples
            given = {i: [s for s in row if s.score is not None] for i, row in enumerate(rows)}
            named = classes({i: [(s.extracted, s.score or 0.0) for s in row] for i, row in given.items()}, suite.reward, pool)
            for i, row in given.items():
                votes |= {
                    (suite.name, i, s.number): None if v is None else row[v].number for s, v in zip(row, named[i], strict=True)
                }
        order = {s.name: at for at, s in enumerate(self.suites)}
        lines = sorted(
            storage.read_lines(self.folder / SAMPLES), key=lambda r: (order[r["benchmark"]], r["problem"], r["sample"])
        )
        asked = {(name, i, s.number) for name, a in there.items() for i, row in enumerate(a.samples) for s in row}
        at = [(row["benchmark"], row["problem"], row["sample"]) for row in lines]
        voted = [row | {"vote": votes.get(key)} if key in asked else row for key, row in zip(at, lines, strict=True)]
        storage.cut_lines(self.folder / SAMPLES, voted)
        there = self.answers()
        graded = {name: a for name, a in there.items() if a.graded} or there  # all raise, where there is none
        numbers = {name: summary(a, self.seed, self.protocol.until) for name, a in graded.items()}
        ungraded = {name: len(a.every) for name, a in there.items() if name not in graded}
        counted = [s for s in self.suites if s.name in numbers and s.benchmark.within not in numbers]
        found = {
            "ungraded": ungraded,
            "benchmarks": numbers,
            "domains": by_domain(numbers, {s.name: s.benchmark.domain for s in counted}),
        }
        storage.replace_file(self.folder / SUMMARY, json.dumps(found, indent=1).encode())
        return found


def evaluate_suites(
    suites: Sequence[Suite], protocol: Protocol, model: Model, folder: Path, *, problems: int, seed: int, workers: int
) -> dict[str, Any] | None:
    """Sample and grade what is missing in the folder; the summary, or None when Ctrl-C came first: the same call goes on.

    Draws are keyed by (seed, benchmark, problem, sample): two models evaluated alike meet the same draws, and an evaluation
    that was interrupted ends as one that was not.
    """
    evaluation = Evaluation(folder, suites, protocol, model, problems, seed)
    stopping = "stopping; what is done is kept. Press Ctrl-C again to stop at once"
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give another --out")
    if folder.exists() and not is_evaluation(folder) and any(p.name not in OURS for p in folder.iterdir()):
        raise CheckpointError(f"{folder}: is not empty and holds no evaluation; give another --out")
    storage.make_folder(folder)
    lock = storage.lock(folder, "an evaluation")
    with lock, RewardPool(suites[0].reward, workers) as pool, Progress("eval", len(suites), stopping=stopping) as progress:
        rewards = {s.name: s.reward for s in suites}
        evaluation.open(evaluation.asked())
        evaluation.grade_again(pool)
        while requests := evaluation.missing():
            progress.phase("sampling")
            fresh: list[Scored] = []
            written = time.monotonic()
            try:
                for done, scored in enumerate(graded(model, pool, requests, rewards, protocol.truncated, progress), 1):
                    fresh.append(scored)
                    _tell(progress, done, len(requests))
                    if len(fresh) >= AT_ONCE or time.monotonic() - written > EVERY_S:
                        ready, fresh, written = fresh, [], time.monotonic()
                        evaluation.keep(ready)
            finally:
                evaluation.keep(fresh)
            if progress.stop_requested:
                return None
        progress.phase("counting votes")
        return evaluation.close(pool)


def _tell(progress: Progress, done: int, total: int) -> None:
    """The live line; a line that stays at every tenth where there is no terminal."""
    progress.rollouts(done, total)
    if not progress.console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
        progress.note(f"eval {progress.detail}")


def graded(
    model: Model,
    pool: RewardPool,
    requests: Sequence[Request],
    rewards: Mapping[str, Reward],
    truncated: str,
    progress: Progress,
) -> Iterator[Scored]:
    """Rollouts with their verdicts as both are there, in any order; a truncated one scores 0 unless it is graded as it is.

    Ends early when a stop is requested. Raises what the engine raises, after what it has given was graded.
    """
    engine: Stream = model.engine
    for request in requests:
        engine.submit(request)
    waiting: dict[RolloutId, Rollout] = {}
    failure: LongthinkError | None = None
    try:
        for found in engine.finished():
            rollout = replace(found, text=model.text(found))
            if rollout.finish_reason == "aborted":
                yield rollout, Verdict(None, "verifier_error", detail={"why": "the server refused the request"})
            elif rollout.truncated and truncated == "zero":
                yield rollout, Verdict(0.0, "truncated")
            else:
                waiting[rollout.id] = rollout
                pool.submit(rollout.id, rollout.text, rollout.problem.gold, rewards[rollout.problem.domain])
            yield from _decided(pool.poll(0.0), waiting)
            if progress.stop_requested:
                break
    except LongthinkError as e:
        failure = e
    yield from _decided(pool.drain(), waiting)
    if failure:
        raise failure


def _decided(verdicts: Mapping[Any, Verdict], waiting: dict[RolloutId, Rollout]) -> Iterator[Scored]:
    for id, verdict in verdicts.items():
        yield waiting.pop(id), verdict


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The benchmarks of a summary as a table for a terminal, with the mean of a domain that has several."""
    head = ("", "accuracy", "new test like it", "this test", "pass@n", "maj@n", "tokens", "truncated", "problems", "samples")
    rows: list[tuple[str, ...]] = [head]
    for name, s in found["benchmarks"].items():
        new, here = (f"{100 * s[f'low{at}']:.1f} to {100 * s[f'high{at}']:.1f}" for at in ("", "_here"))
        spread = f"{s['n'][0]}" if s["n"][0] == s["n"][1] else f"{s['n'][0]} to {s['n'][1]}"
        ungraded = f"  ({s['ungraded']} not graded)" if s["ungraded"] else ""
        shares = (f"{100 * s['pass_at_k'][-1]:.1f}", f"{100 * s['maj_at_k']['mean'][-1]:.1f}")
        numbers = (f"{s['tokens']['mean']:,.0f}", f"{100 * s['truncated']:.1f} %", str(s["problems"]), f"{spread}{ungraded}")
        rows.append((name, f"{100 * s['accuracy']:.1f} %", new, here, *shares, *numbers))
    for name, s in found["domains"].items():
        if len(s["benchmarks"]) > 1:
            span = f"{100 * s['low']:.1f} to {100 * s['high']:.1f}"
            count = f"{len(s['benchmarks'])} sets"
            rows.append(
                (f"mean of {name}", f"{100 * s['accuracy']:.1f} %", span, *[""] * 3, f"{s['tokens']:,.0f}", "", count, "")
            )
    rows += [
        (
            f"{name}: ±{50 * (s['high_here'] - s['low_here']):.1f} points is as tight as {MOST} samples of a problem make it",
            *[""] * 9,
        )
        for name, s in found["benchmarks"].items()
        if s.get("until") and s["high_here"] - s["low_here"] > 2.001 * s["until"]
    ]
    rows += [(_tool_in_words(name, s["tool"]), *[""] * 9) for name, s in found["benchmarks"].items() if "tool" in s]
    rows += [(f"{name}: none of {n} samples could be graded", *[""] * 9) for name, n in found["ungraded"].items()]
    widths = [max(len(row[i]) for row in rows if i or row[1]) for i in range(len(head))]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _tool_in_words(name: str, told: Mapping[str, float]) -> str:
    scores = " and ".join(f"{100 * told[f'score_{at}']:.1f} % {at}" for at in ("with", "without") if f"score_{at}" in told)
    used, failed = 100 * told["used"], 100 * told["failed"]
    calls = f"{told['calls']:.1f} calls of the tool a sample, in {used:.0f} % of them, of which {failed:.0f} % failed"
    return f"{name}: {calls}; accuracy {scores}"


def _difference(key: str, there: Any, now: Any) -> str:
    """Where two values of a key first differ, and how.

    >>> _difference("a", {"b": 1, "c": {"d": 2}}, {"b": 1, "c": {"d": 3}})
    'a.c.d (2, now 3)'
    """
    if isinstance(there, dict) and isinstance(now, dict) and there.keys() == now.keys():
        inner = next(k for k in now if there[k] != now[k])
        return _difference(f"{key}.{inner}", there[inner], now[inner])
    if isinstance(there, dict) and isinstance(now, dict):
        there, now = list(there), list(now)
    return f"{key} ({_short(there)}, now {_short(now)})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
