"""Problems in, finished and scored groups out: the one place that submits requests and gathers verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from longthink.data import DataSource
from longthink.engines.base import Stream
from longthink.folder import Tokenizer
from longthink.rewards.base import Reward
from longthink.rewards.pool import Grader
from longthink.rng import derive_seed
from longthink.selection import in_band, leave_out_truncated, select
from longthink.shape import Parts
from longthink.signals import measure, probes
from longthink.tables import RolloutSettings, SelectionSettings
from longthink.types import Group, Request, Rollout, RolloutId, Sampling, Verdict

__all__ = [
    "Collected",
    "Grading",
    "Journal",
    "Progress",
    "Scored",
    "collect",
    "rollout_rows",
    "sample_and_score",
    "timed_verdicts",
]

Scored = tuple[Rollout, Verdict]
Journal = Mapping[RolloutId, tuple[str, Verdict]]

TIMED = ("timeout", "limit", "crash")  # statuses that may differ when the same text is graded again


class Progress(Protocol):
    """Told of every finished rollout."""

    def __call__(self, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Grading:
    """Who grades: each domain's verifier, and the parts of the reward."""

    rewards: Mapping[str, Reward]
    parts: Parts = field(default_factory=Parts)


class Collected(NamedTuple):
    """A step's rollouts: all with their verdicts, the groups made of them, those to train on, and metrics of the choice."""

    scored: list[Scored]
    groups: list[Group]
    chosen: list[Group]
    row: dict[str, float]


def collect(
    engine: Stream,
    data: DataSource,
    pool: Grader,
    settings: RolloutSettings,
    *,
    grading: Grading,
    selection: SelectionSettings,
    seed: int,
    journal: Journal,
    progress: Progress,
) -> Collected:
    """G rollouts of each of the next N problems with their verdicts, and the groups made of them, in the order drawn.

    A rollout's draws are keyed by (run seed, group, sample). A rollout whose verdict has no score (our part
    failed) leaves its group, or has a reward of 0 if `settings.unscored` says so; a group left with fewer than two, when
    groups have more than one, is dropped. With dynamic sampling groups out of the band are dropped; to refill, as many
    problems as are missing are drawn again, for at most `max_rounds` rounds, and the step goes on with what there is. Groups
    beyond N go unused, and with `surplus` carry their problems are the next to be drawn.
    """
    scored: list[Scored] = []
    groups: list[Group] = []
    kept: list[Group] = []
    rounds, wanted = 0, round(settings.prompts * selection.oversample)
    while wanted > 0:
        rounds += 1
        requests = _requests(data, wanted, settings, seed)
        found = sample_and_score(
            engine, pool, data.tokenizer, requests, grading=grading, settings=settings, journal=journal, progress=progress
        )
        fresh, made = _groups(found, settings, grading.parts)
        scored, groups = scored + fresh, groups + made
        kept += [g for g in made if selection.dynamic == "off" or in_band(g, selection)]
        again = selection.dynamic == "refill" and rounds < selection.max_rounds
        wanted = settings.prompts - len(kept) if again else 0
    surplus, kept = kept[settings.prompts :], kept[: settings.prompts]
    if selection.surplus == "carry":
        data.give_back([g.rollouts[0].id.group for g in surplus])
    data.record(groups)
    chosen = select(kept, selection)
    trained = sum(sum(g.trained) if g.trained else len(g.rollouts) for g in chosen)
    signal = measure(groups, settings.signal) if settings.signal else {}
    row = signal | {"select/discarded_share": 1.0 - trained / len(scored), "select/rounds": float(rounds)}
    return Collected(scored, groups, chosen, row | {"select/missing_prompts": float(settings.prompts - len(chosen))})


def _requests(data: DataSource, count: int, settings: RolloutSettings, seed: int) -> list[Request]:
    """G requests for each of the next problems; with a signal the first of them sample up to its widest window."""
    sampling = Sampling(settings.temperature)
    far = probes(count, settings.signal) if settings.signal else 0
    return [
        Request(RolloutId(group, sample), problem, ids, window, sampling, derive_seed(seed, "sample", group, sample))
        for place, (group, problem, ids) in enumerate(data.draw(count))
        for window in (settings.widest if place < far else settings.window,)
        for sample in range(settings.group_size)
    ]


def _groups(scored: list[Scored], settings: RolloutSettings, parts: Parts) -> tuple[list[Scored], list[Group]]:
    """The rollouts with their rewards in `detail`, and the groups of those that have one."""
    penalty = settings.truncated_reward if settings.truncated == "penalize" else None
    shaped = bool(parts.names) or penalty is not None
    done: list[Scored] = []
    groups: list[Group] = []
    for start in range(0, len(scored), settings.group_size):
        whole = scored[start : start + settings.group_size]
        places = [i for i, (_, v) in enumerate(whole) if v.score is not None or settings.unscored == "zero"]
        values = parts.rewards([whole[i] for i in places], penalty)
        for i, (reward, each) in zip(places, values, strict=True) if shaped else ():
            rollout, verdict = whole[i]
            whole[i] = rollout, replace(verdict, detail={**verdict.detail, "reward": reward, "parts": each})
        done += whole
        if len(places) >= min(2, settings.group_size):
            rollouts, verdicts = zip(*(whole[i] for i in places), strict=True)
            group = Group(rollouts[0].problem, rollouts, verdicts, tuple(reward for reward, _ in values))
            groups.append(leave_out_truncated(group, settings.truncated))
    return done, groups


def sample_and_score(
    engine: Stream,
    pool: Grader,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    grading: Grading,
    settings: RolloutSettings,
    journal: Journal,
    progress: Progress,
) -> list[Scored]:
    """Every request's rollout and verdict, in id order; each is graded in another process the moment it ends.

    A truncated rollout scores 0 without being graded unless `settings.truncated` is as_graded; the verifier sees the first
    `settings.graded_tokens` tokens (SIRI 4.2's clip). Parts that read the text see all of it, and their values go into the
    verdict's `detail["parts"]`; where one of them fails the rollout has no score. A verdict in the journal that depended on
    time is taken from there, so a resumed run repeats it.
    """
    for request in requests:
        engine.submit(request)
    verifiers, cap = grading.parts.verifiers, settings.graded_tokens
    rollouts: list[Rollout] = []
    verdicts: dict[RolloutId, Verdict] = {}
    recalled: set[RolloutId] = set()
    for rollout in engine.finished():
        rollout = replace(rollout, text=tokenizer.decode(rollout.response_ids))
        rollouts.append(rollout)
        problem = rollout.problem
        known = journal.get(rollout.id)
        if known is not None and known[0] == rollout.text and known[1].status in TIMED:
            verdicts[rollout.id] = known[1]
            recalled.add(rollout.id)
        elif rollout.truncated and settings.truncated != "as_graded":
            verdicts[rollout.id] = Verdict(0.0, "truncated")
        else:
            shown = tokenizer.decode(rollout.response_ids[:cap]) if 0 < cap < rollout.num_tokens else rollout.text
            pool.submit(rollout.id, shown, problem.gold, grading.rewards[problem.domain])
        if rollout.id not in recalled:
            for name, reward in verifiers.items():
                pool.submit((rollout.id, name), rollout.text, problem.gold, reward)
        progress(len(rollouts), len(requests))
    drained = pool.drain()
    for rollout in rollouts:
        verdict = drained.get(rollout.id) or verdicts[rollout.id]
        if verifiers and rollout.id not in recalled:
            verdict = _with_parts(verdict, {name: drained[rollout.id, name] for name in verifiers})
        verdicts[rollout.id] = verdict
    return [(r, verdicts[r.id]) for r in sorted(rollouts, key=lambda r: r.id)]


def _with_parts(verdict: Verdict, parts: Mapping[str, Verdict]) -> Verdict:
    """The verdict with the parts' values, or without a score where one of them has none."""
    failed = next(((name, part) for name, part in parts.items() if part.score is None), None)
    if failed is None or verdict.score is None:
        return replace(verdict, detail={**verdict.detail, "parts": {name: part.score for name, part in parts.items()}})
    name, part = failed
    return replace(
        verdict, score=None, status=part.status, detail={**verdict.detail, "why": f"part {name}: {part.detail.get('why')}"}
    )


def rollout_rows(scored: Sequence[Scored], step: int, chosen: Sequence[Group] = ()) -> list[dict[str, Any]]:
    """The journal's lines for a step: all that is needed to read, re-grade or replay its rollouts; `chosen` are trained on."""
    trained = {r.id for g in chosen for r, t in zip(g.rollouts, g.trained or (True,) * len(g.rollouts), strict=True) if t}
    return [
        {
            "step": step,
            "group": r.id.group,
            "sample": r.id.sample,
            "problem": r.problem.id,
            "domain": r.problem.domain,
            "trained": r.id in trained,
            "prompt": [dict(m) for m in r.problem.prompt],
            "prompt_ids": r.prompt_ids.tolist(),
            "text": r.text,
            "response_ids": r.response_ids.tolist(),
            "finish_reason": r.finish_reason,
            "window": r.window,
            "policy_version": max(s.policy_version for s in r.segments),
            "reward": v.detail.get("reward", v.score),
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
