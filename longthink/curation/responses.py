"""Responses to fine-tune on: which of a teacher's samples are kept with a row."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from longthink.curation.asking import Reply, judged
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Step
from longthink.curation.text import grams
from longthink.rewards.pool import RewardPool
from longthink.tools.formats import FORMATS, pieces
from longthink.tools.interpreter import Interpreter, shortened
from longthink.types import Call, Verdict

__all__ = ["ChoosingStep", "said_by_tool"]

TOLD, MOST = 400, 4000  # characters of an output as the tool shows it by default, and of one that is compared
GRAM = 5  # words of a sequence that two responses are compared by


class ChoosingStep(Step):
    """A step that keeps responses with a row: right ones, of a length, none much like another.

    Of those that are left the first `keep` stay, by `order`; of two whose sequences of five words have `similar`
    or more in common (Jaccard) the later one goes. They are written into `data/responses.*`, a row each.
    """

    reward: dict[str, Any] = Field({"kind": "math"}, description="the verifier (longthink/rewards)")
    right: bool = Field(True, description="only responses with a full score")
    keep: int = Field(1, ge=1, description="responses of a row")
    least_tokens: int = Field(0, ge=0)
    most_tokens: int = Field(0, ge=0, description="0: any number")
    order: Literal["drawn", "short", "long"] = "drawn"
    similar: float = Field(0.8, gt=0, le=1)
    code: Literal["any", "some", "none"] = Field("any", description="some: only responses that call the tool and show its output")
    format: Literal["still", "tora", "tags"] = Field("still", description="how calls are written (longthink/tools/formats.py)")
    rerun: bool = Field(False, description="run the code again, and drop what shows another output: a teacher may invent it")

    def chosen(
        self, rows: Sequence[Row], replies: Sequence[Sequence[Reply]], pool: RewardPool, model: str
    ) -> list[Row | Rejected]:
        """Rows with the responses that stay of those a model gave; rejected where none does, with why most of them went."""
        verdicts = judged(rows, replies, pool)
        return [self._one(row, own, v, model) for row, own, v in zip(rows, replies, verdicts, strict=True)]

    def _one(self, row: Row, replies: Sequence[Reply], verdicts: Sequence[Verdict], model: str) -> Row | Rejected:
        reasons: dict[str, int] = {}
        left: list[tuple[int, Reply]] = []
        for k, (reply, verdict) in enumerate(zip(replies, verdicts, strict=True)):
            if why := self._refused(reply, verdict):
                reasons[why] = reasons.get(why, 0) + 1
            else:
                left.append((k, reply))
        sign = {"drawn": 0, "short": 1, "long": -1}[self.order]
        left.sort(key=lambda found: (sign * found[1].tokens, found[0]))
        kept: list[tuple[int, Reply]] = []
        for k, reply in left:
            if len(kept) < self.keep and not any(_alike(reply.text, other.text) >= self.similar for _, other in kept):
                kept.append((k, reply))
        facts: dict[str, Any] = {"asked": len(replies), "left": len(left), "refused": reasons}
        if not kept:
            return Rejected(row, max(reasons, key=lambda why: reasons[why]) if reasons else "no_reply", facts)
        told = [{"text": reply.text, "tokens": reply.tokens, "sample": k} for k, reply in kept]
        return row.found(self.title, facts | {"model": model, "responses": told})

    def _refused(self, reply: Reply, verdict: Verdict) -> str:
        """Why a response cannot stay, in a word; nothing where it can."""
        called = said_by_tool(reply.text, self.format) if self.code != "any" or self.rerun else []
        checks = {
            "cut": reply.truncated,
            "too_short": reply.tokens < self.least_tokens,
            "too_long": 0 < self.most_tokens < reply.tokens,
            "ungraded": self.right and verdict.score is None and not reply.truncated,
            "wrong": self.right and (verdict.score or 0.0) < 1.0,
            "no_code": self.code == "some" and not called,
            "code": self.code == "none" and bool(called),
        }
        why = next((why for why, holds in checks.items() if holds), "")
        return why or ("invented_output" if self.rerun and not _is_so(called) else "")


def said_by_tool(text: str, format: str) -> list[tuple[str, str]]:
    """The calls of a response with the outputs it shows.

    >>> said_by_tool("<code>6*7</code><output>42</output>so 42", "tags")
    [('6*7', '42')]
    """
    how, found, before = FORMATS[format], list[tuple[str, str]](), ""
    for piece in pieces(text, how):
        if piece.source == "tool":
            found.append((how.called(before) or "", how.said(piece.text)))
        before += piece.text
    return found


def _is_so(called: Sequence[tuple[str, str]]) -> bool:
    """Whether the interpreter says what a response claims."""
    interpreter, earlier = _interpreter(), list[Call]()
    for code, output in called:
        job = interpreter.begin(code, earlier)
        while not interpreter.done(job):
            interpreter.wait(1.0)
        earlier.append(interpreter.take(job))
        said = earlier[-1].output.strip()
        if output not in (said, shortened(said, TOLD)):
            return False
    return True


@lru_cache(1)
def _interpreter() -> Interpreter:
    return Interpreter(call_s=5.0, output_chars=MOST, memory_mb=1024, lowest="landlock", at_once=1)


def _alike(one: str, other: str) -> float:
    """The Jaccard index of two texts' sequences of words."""
    a, b = grams(one.split(), GRAM), grams(other.split(), GRAM)
    return len(a & b) / len(a | b) if a | b else float(one == other)
