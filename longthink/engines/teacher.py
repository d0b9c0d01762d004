"""An engine whose rollouts are a task's own traces: supervised fine-tuning is the loop with this engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError
from longthink.folder import Tokenizer
from longthink.model import Decoder
from longthink.recipe import Recipe
from longthink.tasks.base import Task
from longthink.tools.formats import FORMATS, CallFormat, Piece, pieces
from longthink.types import Problem, Request, Rollout, RolloutId, Segment

__all__ = ["TeacherEngine", "trace_calls"]


class TeacherEngine:
    """Answers a request with the task's trace for it, cut at `max_tokens`. Log-probs are absent: use loss.kind = "nll".

    What a tool has said in a trace, in this format, is a segment of its own, as in a rollout that called it: it is not learnt.
    """

    def __init__(self, tasks: Mapping[str, Task], tokenizer: Tokenizer, calls: CallFormat | None = None) -> None:
        self.tasks, self.tokenizer, self.calls = tasks, tokenizer, calls
        self._end = tokenizer.end_id
        self._waiting: dict[RolloutId, Request] = {}

    def load(self, decoder: Decoder, version: int) -> None:
        """A teacher has no weights."""

    def submit(self, request: Request) -> None:
        self._waiting[request.id] = request

    def abort(self, id: RolloutId) -> Rollout:
        if id not in self._waiting:
            raise EngineError(f"rollout {tuple(id)} is not running")
        request = self._waiting.pop(id)
        return EmbeddedEngine.ended(request, "aborted", request.segments)

    def abort_all(self) -> list[Rollout]:
        return [self.abort(id) for id in list(self._waiting)]

    def finished(self) -> Iterator[Rollout]:
        while self._waiting:
            yield from self.advance()

    def segments(self, problem: Problem, draw: int) -> list[Segment]:
        """A trace in tokens, the one that ends it among them."""
        found = self.tasks[problem.domain].trace(problem, draw)
        if isinstance(found, str):
            found = pieces(found, self.calls) if self.calls else [Piece(found, "policy")]
        segments = [Segment(piece.source, self.tokenizer.encode(piece.text)) for piece in found]
        return _merged([*segments, Segment("policy", np.array([self._end], np.int64))])

    def advance(self) -> list[Rollout]:
        request = self._waiting.pop(min(self._waiting))
        segments = self.segments(request.problem, request.id.sample)
        kept, room = [], request.max_tokens
        for segment in segments:
            kept.append(replace(segment, token_ids=segment.token_ids[:room]))
            room -= len(kept[-1].token_ids)
        whole = sum(len(s.token_ids) for s in segments) <= request.max_tokens
        return [EmbeddedEngine.ended(request, "stop" if whole else "length", tuple(s for s in kept if len(s.token_ids)))]


def trace_calls(recipe: Recipe) -> CallFormat | None:
    """How the recipe's traces write calls of the tool, whose output is not to be learnt; None where all of a trace is."""
    return FORMATS[recipe.tool.format] if recipe.tool and not recipe.tool.learn_output else None


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one source as one."""
    runs = [(source, [s.token_ids for s in run]) for source, run in groupby(segments, key=lambda s: s.source)]
    return [Segment(source, np.concatenate(ids)) for source, ids in runs]
