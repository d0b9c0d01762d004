"""Mathematical answers: the last box after the thinking, compared by text, value, structure, then algebra."""

import math
import re
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field

from longthink.answers import clean, equal, same_by_algebra
from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Math"]


MAX_DIGITS = 1_000
SCAN_CHARS, SCAN_BOXES = 20_000, 64  # how far a box is followed; how many boxes that never close are passed over
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Towers of powers, and exponents and factorials whose value takes seconds or gigabytes.
EXPLOSIVE = re.compile(
    r"\d[\s)}]*\^[\s{(]*[-+]?[\d.]+[\s)}]*\^[\s{(]*[-+]?\d"
    r"|\d\s*[eE]\s*[-+]?\s*\d{4,}|\^[\s{(]*[-+]?\s*\d{5,}|\d{5,}[\s)}]*!"
)


class Math(Reward):
    r"""1 if the last `\boxed{…}` (or `\fbox{…}`) of the answer equals the gold answer, else 0.

    Gold: a string, a number, or a list of alternatives of which any will do; a box around one is taken off.
    Brackets must be those of the gold; order counts in tuples and intervals, not in lists and sets. Units,
    currency signs and degrees are dropped, but two known units must agree; 20% equals 20 and 1/5. A decimal
    equals a fraction no decimal can write when six digits agree. An answer too large to compare is `limit`
    unless it is the gold letter by letter; one the algebra cannot read or cannot show equal is unequal.
    Source: math-verify for the algebra, without its known false positives.
    """

    think: Literal["required", "optional"] = "required"
    max_chars: int = Field(1_000, ge=1)
    max_nesting: int = Field(50, ge=1)

    def prepare(self) -> None:
        """Load the algebra now, so that the first answer does not pay for it."""
        same_by_algebra("x+1", "1+x")

    def grade(self, response: str, gold: Any) -> Verdict:
        golds = alternatives(gold)
        if not golds:
            return Verdict(None, "verifier_error", detail={"why": "the gold is no answer", "gold": repr(gold)[:200]})
        region = answer_region(response, self.think)
        answer = (last_box(region) or "").strip() if region is not None else ""
        if not answer:
            return Verdict(0.0, "no_answer")
        if any(answer.split() == g.split() for g in golds):
            return Verdict(1.0, "ok", answer)
        if why := self.excess(answer):
            return Verdict(0.0, "limit", answer[:200], {"why": why})
        failure = ""
        for g in golds:
            try:
                if equal(g, answer):
                    return Verdict(1.0, "ok", answer)
            except Exception as error:  # algebra on arbitrary text raises anything at all
                failure = type(error).__name__
        return Verdict(None, "verifier_error", answer, {"why": failure}) if failure else Verdict(0.0, "ok", answer)

    def excess(self, answer: str) -> str:
        """Why this answer is too large to compare; empty if it is not."""
        if len(answer) > self.max_chars:
            return f"longer than {self.max_chars} characters"
        if max(accumulate((char in "([{") - (char in ")]}") for char in answer)) > self.max_nesting:
            return f"nested deeper than {self.max_nesting}"
        if sum(map(str.isdigit, answer)) > MAX_DIGITS:
            return f"more than {MAX_DIGITS} digits"
        return "a number too large to compute" if EXPLOSIVE.search(answer) else ""


def alternatives(gold: Any) -> list[str] | None:
    r"""The gold answers as text; None if one of them is empty or not an answer at all.

    >>> alternatives([142.0, r"\boxed{7}"])
    ['142', '7']
    """
    texts = []
    for item in gold if isinstance(gold, list | tuple) else [gold]:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or item in (math.inf, -math.inf) or item != item:
            return None
        try:
            text = str(int(item) if isinstance(item, float) and item.is_integer() else item)
        except ValueError:  # an integer beyond the interpreter's limit on digits
            return None
        text = (last_box(text) or "") if r"\boxed" in text else text
        if not clean(text)[0]:
            return None
        texts.append(text.strip())
    return texts


def last_box(text: str) -> str | None:
    r"""What the last box that closes holds.

    >>> last_box(r"\boxed{1} then \fbox{\frac{1}{2}} or \boxed{3")
    '\\frac{1}{2}'
    """
    start = len(text)
    for _ in range(SCAN_BOXES):
        start = max(text.rfind(r"\boxed", 0, start), text.rfind(r"\fbox", 0, start))
        if start < 0:
            break
        opening = BOX.match(text, start)
        inside = braced(text, opening.end()) if opening else None
        if inside is not None:
            return inside
    return None


def braced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes it, if that is near enough."""
    depth = 1
    for brace in BRACE.finditer(text, start, start + SCAN_CHARS):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[start : brace.start()]
    return None
