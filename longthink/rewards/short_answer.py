"""Short answers of the sciences: a number with its unit, a few words, or a formula."""

from typing import Any, ClassVar

from pydantic import Field

from longthink.maths.answers import equal
from longthink.maths.extract import answer_tag, last_box, last_number, stated_answer
from longthink.maths.limits import excess
from longthink.maths.short import same_short, unit_of
from longthink.rewards.base import Reward, answer_region
from longthink.rewards.math import alternatives, fails_alone
from longthink.types import Verdict

__all__ = ["ShortAnswer"]


class ShortAnswer(Reward):
    r"""1 if the answer is the gold quantity within a relative `tolerance`, or the gold words, or equal by algebra.

    The answer is the last `\boxed{…}` after the thinking, else the last `<answer>…</answer>`, else what follows the
    last "answer is" or "answer:". Gold: a string, a number, or a list of alternatives. Units are converted (5 km is
    5000 m); one may be left out, but not be of another dimension. Two integers without unit must be equal, whatever
    the tolerance. Words are compared without case, articles and punctuation. What is neither goes to the maths
    verifier. Source: the STEM answers of NVIDIA's section 2, which leaves the comparison open.
    """

    answers_are_golds: ClassVar[bool] = True
    tolerance: float = Field(0.01, ge=0, lt=1, description="relative; 1 % is what rounding to two digits costs")

    def prepare(self) -> None:
        """Load units and algebra."""
        unit_of("m/s")
        equal("x+1", r"1+\frac{x}{1}")

    def read(self, gold: Any) -> list[str]:
        return alternatives(gold)

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        return None if region is None else last_box(region) or answer_tag(region) or stated_answer(region)

    def guess(self, response: str) -> str | None:
        return last_box(response) or answer_tag(response) or stated_answer(response) or last_number(response)

    def judge_guess(self, answer: str, gold: list[str]) -> float:
        return float(any(same_short(g, answer, self.tolerance) for g in gold))

    def example(self, gold: Any) -> str:
        return rf"<think></think> \boxed{{{self.read(gold)[0]}}}"

    def judge(self, answer: str, gold: list[str]) -> Verdict:
        if any(answer.split() == g.split() for g in gold):
            return Verdict(1.0, "ok", answer)
        if why := excess(answer):
            return Verdict(0.0, "limit", answer[:200], {"why": why})
        failure = ""
        for g in gold:
            same = same_short(g, answer, self.tolerance)
            try:
                if same or (same is None and equal(g, answer)):
                    return Verdict(1.0, "ok", answer)
            except Exception as error:  # algebra on arbitrary text raises anything at all
                failure = failure or (type(error).__name__ if fails_alone(equal, g) else "")
        return Verdict(None, "verifier_error", answer, {"why": failure}) if failure else Verdict(0.0, "ok", answer)
