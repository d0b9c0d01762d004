"""Problems in, finished and scored groups out: the one place that submits requests and gathers verdicts."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
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
    "Collector",
    "Grading",
    "Journal",
    "Progress",
    "Scored",
    "Scoring",
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
    """A step's rollouts and what they were asked for with, the groups made of them, those to train on, metrics of the choice."""

    settings: RolloutSettings
    scored: list[Scored]
    groups: list[Group]
    chosen: list[Group]
    row: dict[str, float]


class Collector:
    """Asks for the rollouts of steps, of later ones while earlier ones are trained on, and gives each step what it asked for.

    A step gets the rollouts of its own problems, the long as the short ones, however early or late they ended: none that was
    asked for is left out because it took long. `sampled` and `collected` count lengths where rollouts come in and where they go
    out, of the steps that were collected or dropped.
    """

    def __init__(self, engine: Stream, data: DataSource, pool: Grader, seed: int) -> None:
        self.engine, self.data, self.pool, self.seed = engine, data, pool, seed
        self.sampled, self.collected = Counter[int](), Counter[int]()
        self._steps: dict[int, Scoring] = {}
        self._came: defaultdict[int, Counter[int]] = defaultdict(Counter)  # lengths by step
        self._step_of: dict[int, int] = {}  # by group
        self._verdicts: dict[Hashable, Verdict] = {}  # that are there, of any step

    def admit(
        self, step: int, settings: RolloutSettings, *, grading: Grading, selection: SelectionSettings, journal: Journal
    ) -> None:
        """Ask for a step's rollouts, unless that was done. They keep these settings, whatever is decided in the meantime."""
        if step not in self._steps:
            self._steps[step] = Scoring(self.pool, self.data.tokenizer, grading, settings, selection, journal, self._verdicts)
            self._ask(step, round(settings.prompts * selection.oversample))

    def _ask(self, step: int, prompts: int) -> None:
        scoring = self._steps[step]
        requests = _requests(self.data, prompts, scoring.settings, self.seed)
        self._step_of |= {request.id.group: step for request in requests}
        scoring.ask(self.engine, requests)

    def drop(self) -> None:
        """Forget everything that is on its way, ended or not. Its problems are drawn again."""
        self._steps, self._step_of = {}, {}
        for lengths in self._came.values():
            self.sampled += lengths  # discarded, whatever their length
        self._came.clear()
        self._verdicts.clear()
        self.data.draw_again()

    def collect(self, step: int, progress: Progress) -> Collected:
        """A step's rollouts with their verdicts, and the groups made of them, in the order drawn.

        A rollout's draws are keyed by (run seed, group, sample). A rollout whose verdict has no score (our part
        failed) leaves its group, or has a reward of 0 if `settings.unscored` says so; a group left with fewer than two, when
        groups have more than one, is dropped. With dynamic sampling groups out of the band are dropped; to refill, as many
        problems as are missing are drawn again, for at most `max_rounds` rounds, and the step goes on with what there is. Groups
        beyond N go unused, and with `surplus` carry their problems are the next to be drawn.
        """
        self.data.step, scoring = step, self._steps[step]
        settings, selection, grading = scoring.settings, scoring.selection, scoring.grading
        scored: list[Scored] = []
        groups: list[Group] = []
        kept: list[Group] = []
        rounds, wanted = 0, 1
        while wanted > 0:
            if rounds:
                self._ask(step, wanted)
            rounds += 1
            for rollout in self.engine.finished() if scoring.missing else ():
                of = self._step_of[rollout.id.group]
                self._steps[of].take(rollout)
                self._came[of][rollout.num_tokens] += 1
                progress(scoring.asked - scoring.missing, scoring.asked)
                if not scoring.missing:
                    break
            self._verdicts |= self.pool.drain()
            fresh, made = _groups(scoring.results(), settings, grading.parts)
            scored, groups = scored + fresh, groups + made
            kept += [g for g in made if selection.dynamic == "off" or in_band(g, selection)]
            again = selection.dynamic == "refill" and rounds < selection.max_rounds
            wanted = settings.prompts - len(kept) if again else 0
        surplus, kept = kept[settings.prompts :], kept[: settings.prompts]
        if selection.surplus == "carry":
            self.data.give_back([g.rollouts[0].id.group for g in surplus])
        self.data.record(groups)
        self._end(step, scored)
        chosen = select(kept, selection)
        trained = sum(sum(g.trained) if g.trained else len(g.rollouts) for g in chosen)
        signal = measure(groups, settings.signal) if settings.signal else {}
        row = signal | {"select/discarded_share": 1.0 - trained / len(scored), "select/rounds": float(rounds)}
        return Collected(
            settings, scored, groups, chosen, row | {"select/missing_prompts": float(settings.prompts - len(chosen))}
        )

    def _end(self, step: int, scored: Sequence[Scored]) -> None:
        del self._steps[step]
        done = [group for group, of in self._step_of.items() if of == step]
        for group in done:
            del self._step_of[group]
        self.data.settle(done)
        self.sampled += self._came.pop(step)
        self.collected.update(rollout.num_tokens for rollout, _ in scored)


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


class Scoring:
    """Rollouts that were asked for together, each graded in another process the moment it ends.

    A truncated rollout scores 0 without being graded unless `settings.truncated` is as_graded; the verifier sees the first
    `settings.graded_tokens` tokens (SIRI 4.2's clip). Parts that read the text see all of it, and their values go into the
    verdict's `detail["parts"]`; where one of them fails the rollout has no score. A verdict in the journal that depended on
    time is taken from there, so a resumed run repeats it.
    """

    def __init__(
        self,
        pool: Grader,
        tokenizer: Tokenizer,
        grading: Grading,
        settings: RolloutSettings,
        selection: SelectionSettings,
        journal: Journal,
        verdicts: dict[Hashable, Verdict],
    ) -> None:
        self.pool, self.tokenizer, self.grading, self.journal = pool, tokenizer, grading, journal
        self.settings, self.selection = settings, selection
        self.asked = self.missing = 0
        self.verdicts = verdicts  # by rollout, or by rollout and part; they go when they are read
        self._rollouts: list[Rollout] = []
        self._recalled: set[RolloutId] = set()

    def ask(self, engine: Stream, requests: Sequence[Request]) -> None:
        """Submit requests."""
        self.asked = self.missing = self.missing + len(requests)
        for request in requests:
            engine.submit(request)

    def take(self, rollout: Rollout) -> None:
        """One of them has ended: have it graded."""
        self.missing -= 1
        rollout = replace(rollout, text=self.tokenizer.decode(rollout.response_ids))
        self._rollouts.append(rollout)
        problem, cap = rollout.problem, self.settings.graded_tokens
        known = self.journal.get(rollout.id)
        if known is not None and known[0] == rollout.text and known[1].status in TIMED:
            self.verdicts[rollout.id] = known[1]
            self._recalled.add(rollout.id)
            return
        if rollout.truncated and self.settings.truncated != "as_graded":
            self.verdicts[rollout.id] = Verdict(0.0, "truncated")
        else:
            shown = self.tokenizer.decode(rollout.response_ids[:cap]) if 0 < cap < rollout.num_tokens else rollout.text
            self.pool.submit(rollout.id, shown, problem.gold, self.grading.rewards[problem.domain])
        for name, reward in self.grading.parts.verifiers.items():
            self.pool.submit((rollout.id, name), rollout.text, problem.gold, reward)

    def results(self) -> list[Scored]:
        """What has come since the last time with its verdicts, in id order; all of it must be graded."""
        found, self._rollouts = sorted(self._rollouts, key=lambda r: r.id), []
        return [(rollout, self._verdict(rollout.id)) for rollout in found]

    def _verdict(self, id: RolloutId) -> Verdict:
        verifiers, verdict = self.grading.parts.verifiers, self.verdicts.pop(id)
        if not verifiers or id in self._recalled:
            return verdict
        return _with_parts(verdict, {name: self.verdicts.pop((id, name)) for name in verifiers})


def sample_and_score(
    engine: Stream,
    pool: Grader,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    grading: Grading,
    journal: Journal,
    progress: Progress,
    settings: RolloutSettings,
) -> list[Scored]:
    """Every request's rollout and verdict, in id order."""
    verdicts: dict[Hashable, Verdict] = {}
    scoring = Scoring(pool, tokenizer, grading, settings, SelectionSettings(), journal, verdicts)
    scoring.ask(engine, requests)
    for rollout in engine.finished():
        scoring.take(rollout)
        progress(scoring.asked - scoring.missing, scoring.asked)
    verdicts |= pool.drain()
    return scoring.results()


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
            **({"versions": [[s.policy_version, len(s.token_ids)] for s in r.segments]} if len(r.segments) > 1 else {}),
            **({"sources": [[s.source, len(s.token_ids)] for s in r.segments]} if _others(r) else {}),
            **({"calls": _told(r)} if r.calls else {}),
            "reward": v.detail.get("reward", v.score),
            "verdict": {"score": v.score, "status": v.status, "extracted": v.extracted, "detail": dict(v.detail)},
        }
        for r, v in scored
    ]


def _others(rollout: Rollout) -> bool:
    """Whether some of its tokens are not the policy's own."""
    return any(s.source != "policy" for s in rollout.segments)


def _told(rollout: Rollout) -> list[dict[str, Any]]:
    """Its calls, without their seconds, which no run repeats."""
    return [{"code": call.code, "output": call.output, "status": call.status} for call in rollout.calls]


def timed_verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[RolloutId, tuple[str, Verdict]]:
    """The journalled verdicts that grading again, or probing again, might change, with the text they judged."""
    return {
        RolloutId(row["group"], row["sample"]): (row["text"], Verdict(**row["verdict"]))
        for row in rows
        if {row["verdict"]["status"], row["verdict"]["detail"].get("probe", {}).get("status")} & set(TIMED)
    }
