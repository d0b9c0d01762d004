"""Problems in, finished and scored groups out: the one place that submits requests and gathers verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from longthink.data import DataSource
from longthink.engines.base import Stream
from longthink.folder import Tokenizer
from longthink.rewards.pool import Grader
from longthink.rng import derive_seed
from longthink.tables import RolloutSettings
from longthink.types import Group, Ints, Problem, Request, Rollout, RolloutId, Sampling, Verdict

__all__ = ["Journal", "Progress", "Scored", "collect", "rollout_rows", "sample_and_score", "timed_verdicts"]

Scored = tuple[Rollout, Verdict]
Journal = Mapping[RolloutId, tuple[str, Verdict]]

TIMED = ("timeout", "limit", "crash")  # statuses that may differ when the same text is graded again


class Progress(Protocol):
    """Told of every finished rollout."""

    def __call__(self, done: int, total: int) -> None: ...


def collect(
    engine: Stream,
    data: DataSource,
    pool: Grader,
    settings: RolloutSettings,
    *,
    seed: int,
    journal: Journal,
    progress: Progress,
) -> tuple[list[Scored], list[Group]]:
    """N·G rollouts of the next N problems with their verdicts, and the groups made of them, in cursor order.

    A rollout's draws are keyed by (run seed, group, sample). A rollout whose verdict has no score (our part
    failed) leaves its group, or has a reward of 0 if `settings.unscored` says so; a group left with fewer than two, when
    groups have more than one, is dropped.
    """
    drawn = data.draw(settings.prompts)
    requests = [
        _request(
            group,
            sample,
            problem,
            ids,
            settings.window,
            Sampling(settings.temperature),
            derive_seed(seed, "sample", group, sample),
        )
        for group, problem, ids in drawn
        for sample in range(settings.group_size)
    ]
    grade_truncated = settings.truncated == "as_graded"
    scored = sample_and_score(
        engine, pool, data.tokenizer, requests, grade_truncated=grade_truncated, journal=journal, progress=progress
    )
    groups: list[Group] = []
    for start in range(0, len(scored), settings.group_size):
        whole = scored[start : start + settings.group_size]
        members = [(r, v) for r, v in whole if v.score is not None or settings.unscored == "zero"]
        if len(members) >= min(2, settings.group_size):
            rollouts, verdicts = zip(*members, strict=True)
            rewards = tuple(v.score or 0.0 for v in verdicts)
            groups.append(Group(rollouts[0].problem, rollouts, verdicts, rewards))
    return scored, groups


def _request(group: int, sample: int, problem: Problem, prompt: Ints, window: int, sampling: Sampling, seed: int) -> Request:
    return Request(RolloutId(group, sample), problem, prompt, window, sampling, seed)


def sample_and_score(
    engine: Stream,
    pool: Grader,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    grade_truncated: bool,
    journal: Journal,
    progress: Progress,
) -> list[Scored]:
    """Every request's rollout and verdict, in id order; each is graded in another process the moment it ends.

    A truncated rollout scores 0 without being graded unless `grade_truncated`. A verdict in the journal that
    depended on time is taken from there, so a resumed run repeats it.
    """
    for request in requests:
        engine.submit(request)
    rollouts: list[Rollout] = []
    verdicts: dict[RolloutId, Verdict] = {}
    for rollout in engine.finished():
        rollout = replace(rollout, text=tokenizer.decode(rollout.response_ids))
        rollouts.append(rollout)
        known = journal.get(rollout.id)
        if known is not None and known[0] == rollout.text and known[1].status in TIMED:
            verdicts[rollout.id] = known[1]
        elif rollout.truncated and not grade_truncated:
            verdicts[rollout.id] = Verdict(0.0, "truncated")
        else:
            pool.submit(rollout.id, rollout.text, rollout.problem.gold)
        progress(len(rollouts), len(requests))
    drained = pool.drain()
    verdicts.update({r.id: v for r in rollouts if (v := drained.get(r.id)) is not None})
    return [(r, verdicts[r.id]) for r in sorted(rollouts, key=lambda r: r.id)]


def rollout_rows(scored: Sequence[Scored], step: int) -> list[dict[str, Any]]:
    """The journal's lines for a step: all that is needed to read, re-grade or replay its rollouts."""
    return [
        {
            "step": step,
            "group": r.id.group,
            "sample": r.id.sample,
            "problem": r.problem.id,
            "prompt": [dict(m) for m in r.problem.prompt],
            "prompt_ids": r.prompt_ids.tolist(),
            "text": r.text,
            "response_ids": r.response_ids.tolist(),
            "finish_reason": r.finish_reason,
            "window": r.window,
            "policy_version": max(s.policy_version for s in r.segments),
            "reward": v.score,
            "verdict": {"score": v.score, "status": v.status, "extracted": v.extracted, "detail": dict(v.detail)},
        }
        for r, v in scored
    ]


def timed_verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[RolloutId, tuple[str, Verdict]]:
    """The journalled verdicts that grading again, or probing again, might change, with the text they judged."""
    return {
        RolloutId(row["group"], row["sample"]): (row["text"], Verdict(**row["verdict"]))
        for row in rows
        if {row["verdict"]["status"], row["verdict"]["detail"].get("probe", {}).get("status")} & set(TIMED)
    }
