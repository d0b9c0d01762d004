"""An engine whose rollouts are a task's own traces: supervised fine-tuning is the loop with this engine."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby

import numpy as np

from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError
from longthink.folder import Tokenizer
from longthink.model import Decoder
from longthink.recipe import Recipe
from longthink.tasks.base import Task
from longthink.tools.formats import FORMATS, CallFormat, Piece, pieces
from longthink.types import Ints, Problem, Request, Rollout, RolloutId, Segment

__all__ = ["TeacherEngine", "told_apart", "trace_calls"]

THINK, OPENED = "<think>", 8  # the mark, and the tokens of a prompt's end it is looked for in


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

    def segments(self, problem: Problem, draw: int, prompt_ids: Ints) -> list[Segment]:
        """A trace in tokens, the one that ends it among them.

        Where the prompt ends with the mark that opens thinking the trace does not say it again.
        """
        found = self.tasks[problem.domain].trace(problem, draw)
        found = [Piece(found, "policy")] if isinstance(found, str) else list(found)
        prompt = self.tokenizer.decode(prompt_ids[-OPENED:])
        if prompt.rstrip().endswith(THINK) and found[0].text.lstrip().startswith(THINK):
            text = found[0].text.lstrip().removeprefix(THINK)
            found[0] = found[0]._replace(text=text.lstrip() if prompt[-1].isspace() else text)
        found = told_apart(found, self.calls) if self.calls else found
        segments = [Segment(piece.source, self.tokenizer.encode(piece.text)) for piece in found]
        return _merged([*segments, Segment("policy", np.array([self._end], np.int64))])

    def advance(self) -> list[Rollout]:
        request = self._waiting.pop(min(self._waiting))
        segments = self.segments(request.problem, request.id.sample, request.prompt_ids)
        kept, room = [], request.max_tokens
        for segment in segments:
            kept.append(replace(segment, token_ids=segment.token_ids[:room]))
            room -= len(kept[-1].token_ids)
        whole = sum(len(s.token_ids) for s in segments) <= request.max_tokens
        return [EmbeddedEngine.ended(request, "stop" if whole else "length", tuple(s for s in kept if len(s.token_ids)))]


def told_apart(parts: Sequence[Piece], format: CallFormat) -> list[Piece]:
    """Parts of a trace with what a tool has said in them as pieces of its own, wherever a call and its output are cut."""
    found, whole = [], pieces("".join(part.text for part in parts), format)
    ends = [*accumulate(len(part.text) for part in parts)]
    edges = [*accumulate(len(piece.text) for piece in whole)]
    begun = 0
    for end in sorted({*ends, *edges} - {0}):
        at, piece = bisect_left(ends, end), whole[bisect_left(edges, end)]
        start = ends[at] - len(parts[at].text)
        text = parts[at].text[begun - start : end - start]
        found.append(Piece(text, "tool" if piece.source == "tool" else parts[at].source))
        begun = end
    return found


def trace_calls(recipe: Recipe) -> CallFormat | None:
    """How the recipe's traces write calls of the tool, whose output is not to be learnt; None where all of a trace is."""
    return FORMATS[recipe.tool.format] if recipe.tool and not recipe.tool.learn_output else None


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one source as one."""
    runs = [(source, [s.token_ids for s in run]) for source, run in groupby(segments, key=lambda s: s.source)]
    return [Segment(source, np.concatenate(ids)) for source, ids in runs]
