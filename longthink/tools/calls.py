"""Who runs what rollouts call: each call once, written down before its output is used, and the rollout as it goes on."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import storage
from longthink.folder import Tokenizer
from longthink.rewards.interpreter import Interpreter
from longthink.rewards.pool import RewardPool
from longthink.tools.formats import FORMATS
from longthink.tools.settings import ToolSettings
from longthink.types import Call, Request, Rollout, RolloutId, Segment, Verdict

__all__ = ["Calls"]

AGAIN = 2.0  # a block that ran so long may take so many times as long when it runs again


class _Asked(NamedTuple):
    """A call on its way: its job in the pool, or the line of the journal that has it."""

    request: Request  # with what the rollout has so far
    text: str
    code: str
    job: int
    known: dict[str, Any] | None


class Calls:
    """Calls of rollouts in, requests to go on with out; `use` tells rollouts of training from those of evaluation.

    A call that is in the journal (`open`) is not run again: a resumed run repeats what the interpreter said, whatever that
    depended on. The blocks of a rollout share their names: those before a block run again in front of it.
    """

    def __init__(self, settings: ToolSettings, tokenizer: Tokenizer, workers: int) -> None:
        self.settings, self.tokenizer, self.format = settings, tokenizer, FORMATS[settings.format]
        limits = settings.model_dump(include={"call_s", "output_chars", "memory_mb", "sandbox"})
        longest = (1 + AGAIN * settings.calls) * settings.call_s + 30.0
        self.pool = RewardPool(Interpreter(**limits, deadline_s=longest), settings.workers or workers)
        self._asked: dict[tuple[bool, RolloutId], _Asked] = {}
        self._found: dict[int, Verdict] = {}
        self._journal: Path | None = None
        self._known: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._jobs = 0

    def close(self) -> None:
        self.pool.close()

    def open(self, journal: Path) -> None:
        """Write calls there from now on, and use those that are there."""
        if journal == self._journal:
            return
        storage.make_folder(journal.parent)
        rows = storage.read_lines(journal)
        storage.cut_lines(journal, rows)  # a line that a kill has torn
        self._journal = journal
        self._known = {(row["group"], row["sample"], row["call"]): row for row in rows}

    def begin(self, use: bool, request: Request, rollout: Rollout) -> None:
        """Run the call that a rollout ended with, or find it in the journal."""
        text = self.tokenizer.decode(rollout.response_ids)
        code = self.format.called(text)
        assert code is not None, "an engine took something for a call that is none"
        known = self._known.get((*rollout.id, len(rollout.calls)))
        known = known if known is not None and known["code"] == code else None
        self._jobs += 1
        self._asked[use, rollout.id] = _Asked(replace(request, segments=rollout.segments), text, code, self._jobs, known)
        if known is None:
            earlier = [call for call in rollout.calls if call.status in ("ok", "error")]
            again_s = sum(min(AGAIN * call.seconds + 0.1, self.settings.call_s) for call in earlier)
            gold = {"earlier": [c.code for c in earlier], "seed": request.seed % (1 << 32), "again_s": again_s}
            self.pool.submit(self._jobs, code, gold)

    def forget(self, use: bool) -> None:
        """Drop what is on its way."""
        self._asked = {key: asked for key, asked in self._asked.items() if key[0] is not use}

    def ready(self, use: bool, ids: Sequence[RolloutId], wait_s: float | None = None) -> list[RolloutId]:
        """Those of them whose calls have ended, waiting for the rest so long at most, or as long as our patience is."""
        until = time.monotonic() + (self.settings.patience_s if wait_s is None else wait_s)
        while True:
            self._found |= self.pool.poll(0.0)  # type: ignore[arg-type]
            ended = [id for id in ids if self._asked[use, id].known or self._asked[use, id].job in self._found]
            left = until - time.monotonic()
            if len(ended) == len(ids) or left <= 0:
                return ended
            self._found |= self.pool.poll(left)  # type: ignore[arg-type]

    def was_late(self, use: bool, id: RolloutId) -> bool:
        """Whether the journal says that the others went on without it."""
        known = self._asked[use, id].known
        return known is not None and bool(known["late"])

    def answers(self, use: bool, ids: Sequence[RolloutId], *, late: bool) -> tuple[list[Request], list[Rollout]]:
        """What becomes of rollouts whose calls have ended: requests to go on, and the rollouts whose window is full.

        Their calls are in the journal by then.
        """
        done: list[Request | Rollout] = []
        fresh = []
        for id in ids:
            asked = self._asked.pop((use, id))
            call = _call(asked, self._found.pop(asked.job, None))
            if asked.known is None:
                facts = {"group": id.group, "sample": id.sample, "call": len(_calls(asked.request)), "late": late}
                fresh.append(facts | {name: getattr(call, name) for name in Call.__slots__})
            done.append(self._on(asked, call))
        if self._journal is not None:
            storage.append_lines(self._journal, fresh)
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


def _calls(request: Request) -> list[Call]:
    return [s.call for s in request.segments if s.call is not None]


def _call(asked: _Asked, verdict: Verdict | None) -> Call:
    if asked.known is not None:
        return Call(**{name: asked.known[name] for name in Call.__slots__})
    assert verdict is not None
    if verdict.score is None:  # our part failed: the process was lost
        return Call(asked.code, "Interpreter Error", "crash", 0.0)
    told = verdict.detail
    return Call(asked.code, told["output"], told["ended"], told["seconds"])
