"""Multiple choice: the letter of an option, or its text."""

import re
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from longthink.maths.extract import answer_tag, last_box, stated_answer
from longthink.maths.short import plain_text, same_short
from longthink.rewards.base import Reward, answer_region
from longthink.rewards.math import alternatives
from longthink.types import Verdict

__all__ = ["Choice"]

MAX_CHARS = 1_000
MARKED = re.compile(
    r"(?:(?:the\s+)?(?:option|choice|answer)\s*)?[(\[]?([A-Z])(?:[)\]]?[.:]|[)\]]|,(?=\s*\w\w)|\s+(?=because|since|as\b))\s*(.*)",
    re.DOTALL,
)
LONE = re.compile(r"(?:(?:the\s+)?(?:option|choice|answer)\s*)?[(\[]?([A-Za-z])[)\]]?[.:]?", re.IGNORECASE)
SEVERAL = re.compile(r"\s*(?:,|;|&|\band\b|,\s*and\b)\s*")
RUN = re.compile(r"[A-H]{2,5}")
TAKEN_BACK = re.compile(r"\b(?:or|and|not|is|wrong|incorrect|but|no|maybe)\b|\(?\b[A-H]\b[).:]|^[A-H]$")
LETTER = re.compile(r"(?<![\w'\\])\(?([A-Z])\)?(?![\w'])")


class Option(NamedTuple):
    """The letters an answer names (none for a text alone) and the text beside or instead of them."""

    letters: frozenset[str]
    text: str


class Choice(Reward):
    r"""1 if the answer names the gold option by its letter, or by its text where the gold gives one, else 0.

    The answer is the last `\boxed{…}` after the thinking, else the last `<answer>…</answer>`, else what follows the
    last "answer is" or "answer:", else a last line that is a letter. Gold: a letter, several (`A, C`: all must be
    named, in any order), the option's text, a number with or without unit, or a list of such alternatives (`["B", "5 cm"]`).
    Where answer and gold both have letters these decide. Texts are compared as short answers are.
    Source: the STEM questions of NVIDIA's section 2.
    """

    answers_are_golds: ClassVar[bool] = True
    tolerance: float = Field(0.01, ge=0, lt=1, description="relative, for an option given by its number")

    def read(self, gold: Any) -> list[Option]:
        return [option(text) for text in alternatives(gold)]

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        if region is None:
            return None
        last = next((line.strip(" *`") for line in reversed(region.splitlines()) if line.strip()), "")
        alone = last if LONE.fullmatch(last) or MARKED.fullmatch(last) else None
        return last_box(region) or answer_tag(region) or stated_answer(region) or alone

    def guess(self, response: str) -> str | None:
        named = LETTER.findall(response[-MAX_CHARS:])
        return last_box(response) or stated_answer(response) or (named[-1] if named else None)

    def example(self, gold: Any) -> str:
        return rf"<think></think> \boxed{{{alternatives(gold)[0]}}}"

    def judge(self, answer: str, gold: list[Option]) -> Verdict:
        if len(answer) > MAX_CHARS:
            return Verdict(0.0, "limit", answer[:200], {"why": f"longer than {MAX_CHARS} characters"})
        given = option(answer)
        lettered = [g for g in gold if g.letters]
        if given.letters and lettered:
            right = any(g.letters == given.letters for g in lettered)
        else:
            right = any(bool(g.text) and bool(same_short(g.text, given.text, self.tolerance)) for g in gold)
        return Verdict(float(right), "ok", answer)


def option(text: str) -> Option:
    r"""The letters and the text of an answer.

    >>> [(sorted(o.letters), o.text) for o in map(option, (r"\text{(B)}", "C. 5 cm", "A and C", "a cat"))]
    [(['B'], ''), (['C'], '5 cm'), (['A', 'C'], ''), ([], 'a cat')]
    """
    text = plain_text(text.replace("**", "")).strip("*` ")
    several = [LONE.fullmatch(part) for part in SEVERAL.split(text)]
    if all(several):
        return Option(frozenset(found[1].upper() for found in several if found), "")
    if RUN.fullmatch(text) and len(set(text)) == len(text):
        return Option(frozenset(text), "")
    if (marked := MARKED.fullmatch(text)) and not TAKEN_BACK.search(marked[2]):
        return Option(frozenset(marked[1]), marked[2].strip())
    return Option(frozenset(), text)
