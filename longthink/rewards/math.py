"""Mathematical answers: the last box after the thinking, compared by text, value, structure, then algebra."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from longthink.maths.answers import clean, equal, same_by_algebra, same_by_library, same_cheaply
from longthink.maths.deepscaler import equal_by_deepscaler
from longthink.maths.extract import deepscaler_box, last_box, last_formula, last_number, stated_answer
from longthink.maths.limits import MAX_CHARS, MAX_NESTING, excess
from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Math", "alternatives", "fails_alone"]

Compare = Callable[[str, str], bool]
GRADERS: dict[str, tuple[Compare, ...]] = {
    "ours": (equal,),
    "deepscaler": (equal_by_deepscaler,),
    "math_verify": (same_by_library,),
    "either": (equal_by_deepscaler, same_by_library),
    "both": (equal_by_deepscaler, same_by_library),
}


class Math(Reward):
    r"""1 if the last `\boxed{…}` (or `\fbox{…}`) of the answer equals the gold answer, else 0.

    Gold: a string, a number, or a list of alternatives of which any will do; a box around one is taken off.
    `grader`: `ours` wants the brackets of the gold; order counts in tuples and intervals, not in lists and sets; units,
    currency signs and degrees are dropped, but two known units must agree; 20% equals 20 and 1/5; a decimal equals a
    fraction no decimal can write when six digits agree. `deepscaler` and `math_verify` follow those projects' rules,
    `either` of the two is enough for NVIDIA (section 2), `both` is strict. `scope`: the answer is the last box after
    the last `</think>`; or DeepScaleR's, the last `\boxed{` between the first and second `</think>`; or, as Open-RS
    has it, the last box of the whole response, thinking included, or without one its last formula.
    An answer too large to compare is `limit` unless it is the gold letter by letter; one the algebra cannot read or
    cannot show equal is unequal. Source: math-verify for the algebra of `ours`, without its known false positives.
    """

    answers_are_golds: ClassVar[bool] = True
    grader: Literal["ours", "deepscaler", "math_verify", "either", "both"] = "ours"
    scope: Literal["answer", "deepscaler", "whole"] = "answer"
    max_chars: int = Field(MAX_CHARS, ge=1)
    max_nesting: int = Field(MAX_NESTING, ge=1)

    def prepare(self) -> None:
        """Load the algebra now, so that the first answer does not pay for it."""
        for compare in GRADERS[self.grader]:
            compare("x+1", r"1+\frac{x}{1}")

    def read(self, gold: Any) -> list[str]:
        """The alternatives as text. Raises: ValueError where one is empty or no answer at all."""
        return alternatives(gold)

    def extract(self, response: str) -> str | None:
        if self.scope == "whole":
            return (last_box(response) or last_formula(response) or "").strip() or None
        region = answer_region(response, self.think)
        if region is None:
            return None
        if self.scope == "deepscaler":
            parts = response.split("</think>")
            return (deepscaler_box(parts[1 if len(parts) > 1 else 0]) or "").strip() or None
        return (last_box(region) or "").strip() or None

    def guess(self, response: str) -> str | None:
        found = last_box(response) or stated_answer(response) or last_formula(response) or last_number(response)
        return found if found and not excess(found) else None

    def judge_guess(self, answer: str, gold: list[str]) -> float:
        numbers = [answer, last_number(answer) or answer]
        return float(any(same_cheaply(g, text) for g in gold for text in numbers))

    def example(self, gold: Any) -> str:
        return rf"<think></think> \boxed{{{self.read(gold)[0]}}}"

    def judge(self, answer: str, gold: list[str]) -> Verdict:
        if any(answer.split() == g.split() for g in gold):
            return Verdict(1.0, "ok", answer)
        if why := excess(answer, self.max_chars, self.max_nesting):
            return Verdict(0.0, "limit", answer[:200], {"why": why})
        failure, found = "", []
        for compare in GRADERS[self.grader]:
            found.append(False)
            for g in gold:
                try:
                    found[-1] |= found[-1] or compare(g, answer)
                except Exception as error:  # algebra on arbitrary text raises anything at all
                    failure = failure or (type(error).__name__ if fails_alone(compare, g) else "")
            if found[-1] != (self.grader == "both"):
                break
        right = found[-1]
        if failure and not right:
            return Verdict(None, "verifier_error", answer, {"why": failure})
        return Verdict(float(right), "ok", answer)


def fails_alone(compare: Compare, gold: str) -> bool:
    """Whether the gold by itself is more than the algebra can take: then a failure is not the answer's fault."""
    try:
        (same_by_algebra if compare is equal else compare)(gold, gold)
    except Exception:  # see above
        return True
    return False


def alternatives(gold: Any) -> list[str]:
    r"""The gold answers as text. Raises: ValueError if one of them is empty or not an answer at all.

    >>> alternatives([142.0, r"\boxed{7}"])
    ['142', '7']
    """
    texts = []
    for item in gold if isinstance(gold, list | tuple) else [gold]:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or item in (math.inf, -math.inf) or item != item:
            raise ValueError(f"{type(item).__name__} is no answer; expected text, a number, or a list of them")
        text = str(int(item) if isinstance(item, float) and item.is_integer() else item)
        text = (last_box(text) or "") if r"\boxed" in text else text
        if not clean(text)[0]:
            raise ValueError("empty")
        texts.append(text.strip())
    if not texts:
        raise ValueError("no alternatives")
    return texts
