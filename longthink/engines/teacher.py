"""An engine whose rollouts are a task's own traces: supervised fine-tuning is the loop with this engine."""

from collections.abc import Iterator, Mapping

import numpy as np

from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError
from longthink.folder import Tokenizer
from longthink.model import Decoder
from longthink.tasks.base import Task
from longthink.types import Request, Rollout, RolloutId, Segment

__all__ = ["TeacherEngine"]


class TeacherEngine:
    """Answers a request with the task's trace for it, cut at `max_tokens`. Log-probs are absent: use loss.kind = "nll"."""

    def __init__(self, tasks: Mapping[str, Task], tokenizer: Tokenizer) -> None:
        self.tasks, self.tokenizer = tasks, tokenizer
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

    def advance(self) -> list[Rollout]:
        request = self._waiting.pop(min(self._waiting))
        text = self.tasks[request.problem.domain].trace(request.problem, request.id.sample)
        ids = np.append(self.tokenizer.encode(text), self._end)
        kept = ids[: request.max_tokens]
        return [EmbeddedEngine.ended(request, "stop" if len(kept) == len(ids) else "length", (Segment("policy", kept),))]
