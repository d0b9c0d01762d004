"""Who runs what rollouts call: each call once, written down before its output is used, and the rollout as it goes on."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import storage
from longthink.clusters.peers import LATE, Place
from longthink.errors import RecipeError
from longthink.folder import Tokenizer
from longthink.machine import usable_cores
from longthink.tools.formats import FORMATS
from longthink.tools.interpreter import Interpreter
from longthink.tools.settings import ToolSettings
from longthink.types import Call, Request, Rollout, RolloutId, Segment

__all__ = ["Calls", "refuse_unwritable"]

TICK_S = 0.05  # between two looks at who is late


class _Asked(NamedTuple):
    """A call on its way: its job, or the line of the journal that has it."""

    request: Request  # with what the rollout has so far
    text: str
    after: str  # a digest of all its tokens
    job: int
    known: dict[str, Any] | None


class Calls:
    """Calls of rollouts in, requests to go on with out; `use` tells rollouts of training from those of evaluation.

    A call that is in the journal (`open`), behind the same tokens, is not run again: a resumed run repeats what the interpreter
    said, whatever that depended on. The blocks of a rollout share their names: those before a block run again in front of it.
    """

    def __init__(self, settings: ToolSettings, tokenizer: Tokenizer, *, in_order: bool = True) -> None:
        self.in_order = in_order
        self.settings, self.tokenizer, self.format = settings, tokenizer, FORMATS[settings.format]
        refuse_unwritable(settings, tokenizer)
        limits = settings.model_dump(include={"call_s", "output_chars", "memory_mb"})
        self.interpreter = Interpreter(**limits, lowest=settings.sandbox, at_once=settings.at_once or 2 * usable_cores())
        self._asked: dict[tuple[bool, RolloutId], _Asked] = {}
        self.journal: Path | None = None
        self._known: dict[tuple[int, int, str], dict[str, Any]] = {}
        self._late: set[tuple[int, int, str]] = set()  # of those in the journal: the others went on without them

    def close(self) -> None:
        self.interpreter.close()

    def open(self, journal: Path | None) -> None:
        """Write calls there from now on, and use those that are there; None writes nothing."""
        if journal == self.journal:
            return
        self.journal, self._known, self._late = journal, {}, set()
        if journal is None:
            return
        storage.make_folder(journal.parent)
        rows = storage.read_lines(journal)
        storage.cut_lines(journal, rows)  # a line that a kill has torn
        self._late = {(row["group"], row["sample"], row["after"]) for row in rows if row.get("late")}
        self._known = {(row["group"], row["sample"], row["after"]): row for row in rows if not row.get("late")}

    def begin(self, use: bool, request: Request, rollout: Rollout) -> None:
        """Run the call that a rollout ended with, or find it in the journal."""
        text = self.tokenizer.decode(rollout.response_ids)
        code = self.format.called(text)
        assert code is not None, "an engine took something for a call that is none"
        after = hashlib.sha256(np.concatenate([rollout.prompt_ids, rollout.response_ids]).tobytes()).hexdigest()[:16]
        known = self._known.get((*rollout.id, after))
        job = 0 if known else self.interpreter.begin(code, rollout.calls, request.seed % (1 << 32))
        self._asked[use, rollout.id] = _Asked(replace(request, segments=rollout.segments), text, after, job, known)

    def forget(self, use: bool) -> None:
        """Drop what is on its way."""
        for key in [key for key in self._asked if key[0] is use]:
            self.interpreter.drop(self._asked.pop(key).job)

    def go_on(self, place: Place, use: bool, *, wait: bool) -> list[Rollout] | None:
        """Give a place the requests of its rollouts whose calls have ended; those of them whose window is full are over.

        They go on two slices after the one they called in, so that what is sampled side by side does not depend on timing. One
        whose call runs longer than our patience is late, and goes on once its place has nothing else: None until its call ends,
        which is waited for if asked to.
        """
        ids, late = place.returning(use), place.alone(use)
        if not self.in_order:  # where the order of things depends on timing anyway, late ones go on as soon as they can
            behind = [id for id, slice_ in place.calling[use].items() if slice_ == LATE and id not in ids]
            requests, over = self.answers(use, self.ready(use, behind, 0.0))
            place.go_on(use, [*(r.id for r in requests), *(r.id for r in over)], requests)
            if over:
                return over
            ids, late = place.returning(use), place.alone(use)
        ended = self.ready(use, ids, (math.inf if wait else 0.0) if late else self.settings.patience_s)
        if late and len(ended) < len(ids):
            return None
        if not late:
            ended = [id for id in ended if self._key(use, id) not in self._late]
            behind = [id for id in ids if id not in set(ended)]
            self._write_late(use, behind)
            place.calling[use] |= dict.fromkeys(behind, LATE)
        requests, over = self.answers(use, ended)
        place.go_on(use, ended, requests)
        return over

    def ready(self, use: bool, ids: Sequence[RolloutId], patience_s: float) -> list[RolloutId]:
        """Those of them whose calls have ended, after waiting for all that have not run longer than so many seconds."""
        jobs = {id: asked.job for id in ids if (asked := self._asked[use, id]).known is None}
        if jobs:
            self.interpreter.wait(0.0)
        while any(not self.interpreter.done(j) and self.interpreter.seconds(j) < patience_s for j in jobs.values()):
            self.interpreter.wait(TICK_S)
        return [id for id in ids if id not in jobs or self.interpreter.done(jobs[id])]

    def _key(self, use: bool, id: RolloutId) -> tuple[int, int, str]:
        return (*id, self._asked[use, id].after)

    def _write_late(self, use: bool, ids: Sequence[RolloutId]) -> None:
        """Write down that the others go on without these, before they do."""
        fresh = [key for id in ids if (key := self._key(use, id)) not in self._late]
        if self.journal is not None:
            names = ("group", "sample", "after")
            storage.append_lines(self.journal, [dict(zip(names, key, strict=True)) | {"late": True} for key in fresh])
            self._late |= set(fresh)

    def answers(self, use: bool, ids: Sequence[RolloutId]) -> tuple[list[Request], list[Rollout]]:
        """What becomes of rollouts whose calls have ended: requests to go on, and the rollouts whose window is full.

        Their calls are in the journal by then.
        """
        done: list[Request | Rollout] = []
        fresh = []
        for id in ids:
            asked = self._asked.pop((use, id))
            known = asked.known
            call = Call(**{n: known[n] for n in Call.__slots__}) if known else self.interpreter.take(asked.job)
            if known is None:
                at = {"group": id.group, "sample": id.sample, "call": len(_calls(asked.request)), "after": asked.after}
                fresh.append(at | {name: getattr(call, name) for name in Call.__slots__})
            done.append(self._on(asked, call))
        if self.journal is not None:
            storage.append_lines(self.journal, fresh)
        return [d for d in done if isinstance(d, Request)], [d for d in done if isinstance(d, Rollout)]

    def _on(self, asked: _Asked, call: Call) -> Request | Rollout:
        """The request with the output behind the call, as far as the window has room for it."""
        request = asked.request
        before, output, after = self.format.shown(asked.text, call.output)
        encode = self.tokenizer.encode
        ids = np.concatenate([encode(before), encode(output, plain=True), encode(after)])
        room = request.max_tokens - request.num_generated
        segments = (*request.segments, Segment("tool", ids[:room], call=call))
        calls = _calls(replace(request, segments=segments))
        spent = sum(len(s.token_ids) for s in segments if s.source == "tool"), sum(c.seconds for c in calls)
        limits = self.settings
        over = len(calls) >= limits.calls or spent[0] >= limits.output_tokens or spent[1] >= limits.total_s
        request = replace(request, segments=segments, calls=None if over else request.calls)
        if room > len(ids):
            return request
        ending = (request.sampling, request.max_tokens)
        return Rollout(request.id, request.problem, request.prompt_ids, segments, "length", *ending)


def refuse_unwritable(settings: ToolSettings, tokenizer: Tokenizer) -> None:
    """Raises: RecipeError where a model has no tokens for a call."""
    format = FORMATS[settings.format]
    call = f"{format.open}\n1\n{format.close}"
    if format.called(tokenizer.decode(tokenizer.encode(call))) is None:
        raise RecipeError(f"the tokenizer of the model cannot write {call!r}, a call in tool.format = {settings.format!r}")


def _calls(request: Request) -> list[Call]:
    return [s.call for s in request.segments if s.call is not None]
