"""Gradable: the verifier takes the answer, and does not take another for it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Step, Work, put
from longthink.part import load_part
from longthink.rewards.base import BAD_GOLD, Reward
from longthink.rewards.pool import RewardPool
from longthink.types import Verdict

__all__ = ["Gradable", "changed"]

LONGEST = 10_000  # characters of an answer that is tried; a longer one is rejected


class Gradable(Step):
    r"""Drops rows whose answer the verifier cannot use: it must score 1 as a response, and a changed one must score less.

    What is tried is the response that the verifier makes of its gold, and the same with its first number one higher (or `+1`
    behind a text without digits), of a list of alternatives the first. Every verdict is under the reward's deadline in a process
    that can be killed. Reasons: `unusable` (the verifier refuses the gold), `rejects_itself`, `accepts_another`, `too_slow`
    (deadline, lost process), `too_long`. Of a verifier that makes no response from its gold, as for code and instructions, it is
    only seen whether it can use the gold. Source: DeepScaleR 3.1 says sympy must be able to grade; its code looks at the text.

    Example: `[[step]]` with `kind = "gradable"`, `reward = { kind = "math", deadline_s = 2.0 }`.
    """

    reward: dict[str, Any] = Field({"kind": "math"}, description="the verifier (longthink/rewards)")

    def reads(self) -> Mapping[str, str]:
        load_part(Reward, self.reward, f"step {self.title}: reward")  # a wrong one is told before work starts
        return {}

    def run(self, work: Work) -> None:
        reward, given = load_part(Reward, self.reward, f"step {self.title}: reward"), work.inputs[0]
        with RewardPool(reward, work.workers) as pool:
            for done, number in enumerate(given.numbers()):
                work.tell(done, len(given.numbers()))
                if not work.out.is_whole(number):
                    rows = given.shard(number)
                    put(work.out, number, [_decided(row, *v) for row, v in zip(rows, _tried(rows, reward, pool), strict=True)])


def _tried(rows: Sequence[Row], reward: Reward, pool: RewardPool) -> list[tuple[Verdict, Verdict | None]]:
    """What the verifier gives each row's own answer, and a changed one."""
    shown = []
    for at, row in enumerate(rows):
        shown.append(_response(reward, row.answer))
        for which, response in enumerate((shown[at], _response(reward, changed(row.answer)))):
            pool.submit((at, which), response or "", row.answer)
    found = pool.drain()
    return [(found[at, 0], found[at, 1] if shown[at] is not None else None) for at in range(len(rows))]


def _response(reward: Reward, gold: Any) -> str | None:
    """What the verifier must accept for this gold; None, where it cannot say."""
    try:
        return reward.example(gold) if len(str(gold)) <= LONGEST else ""
    except BAD_GOLD:
        return ""


def _decided(row: Row, own: Verdict, other: Verdict | None) -> Row | Rejected:
    detail = {"own": _told(own), "changed": _told(other) if other else None}
    if own.score is None:
        return Rejected(row, "unusable" if own.status == "verifier_error" else "too_slow", detail)
    if len(str(row.answer)) > LONGEST:
        return Rejected(row, "too_long", {"characters": len(str(row.answer)), "at_most": LONGEST})
    if other is None:
        return row
    if own.score < 1.0:
        return Rejected(row, "rejects_itself", detail)
    if other.score is None and other.status in ("timeout", "crash"):
        return Rejected(row, "too_slow", detail)
    return Rejected(row, "accepts_another", detail) if (other.score or 0.0) >= 1.0 else row


def _told(verdict: Verdict) -> dict[str, Any]:
    return {"score": verdict.score, "status": verdict.status, "extracted": verdict.extracted, **verdict.detail}


def changed(gold: Any) -> Any:
    r"""Another answer of the same form.

    >>> changed("x=3/4"), changed([r"\frac{1}{2}", "0.5"]), changed("blue"), changed(9)
    ('x=4/4', '\\frac{2}{2}', 'blue+1', '10')
    """
    text = str(gold[0] if isinstance(gold, list) and gold else gold)
    found = re.search(r"\d+", text)
    return f"{text}+1" if found is None else f"{text[: found.start()]}{int(found[0][:50]) + 1}{text[found.end() :]}"
