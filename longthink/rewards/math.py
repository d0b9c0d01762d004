"""Mathematical answers: the last box after the thinking, compared by text, value, structure, then algebra."""

import logging
import math
import re
import string
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import Field

from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Math"]

MAX_DIGITS = 1_000
SCAN_CHARS, SCAN_BOXES = 20_000, 64  # how far a box is followed; how many boxes that never close are passed over
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Towers of powers, and exponents and factorials whose value takes seconds or gigabytes.
EXPLOSIVE = re.compile(
    r"\d[\s)}]*\^[\s{(]*[-+]?[\d.]+[\s)}]*\^[\s{(]*[-+]?\d"
    r"|\d\s*[eE]\s*[-+]?\s*\d{4,}|\^[\s{(]*[-+]?\s*\d{5,}|\d{5,}[\s)}]*!"
)
GLYPHS = str.maketrans({"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "}) | {
    wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)
}
TEXT = r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf|it)|operatorname)\s*\{([^{}]*)\}"
POWER = r"\s*(\^\s*\{?-?\d+\}?)?"
REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\[()]|\\?[$£€]|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|q?quad)(?![a-zA-Z])", " "),
        (r"(?<=\d)\s*(?:\{,\}|,\s*\\!|\\,|\\!)\s*(?=\d{3}(?!\d))", ""),  # thousands
        (r"(?<!\\)\\[!,;: ]|~|\s", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(frac|sqrt)\s*([0-9])", r"\\\1{\2}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
        (r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?(?:\s*[CFK](?![a-zA-Z]))?|\\degree(?![a-zA-Z])", ""),
        (r"(?<=\d)\s*\^\s*\{?\s*(?:\\prime\s*)+\}?", ""),  # minutes and seconds of arc
        (r"\\([gl])eq(?:slant)?(?![a-zA-Z])", r"\\\1e "),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"(?<![a-zA-Z\\])(?:infinity|oo)(?![a-zA-Z])", r"\\infty "),
        (r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])", ""),
    )
]
KNOWN_UNITS = (
    "mm millimeter|cm centimeter|m meter metre|km kilometer|in inch inche|ft foot feet|yd yard|mi mile|g gram|kg kilogram|"
    "s sec second|min minute|h hr hour|day|week|month|yr year|cent|dollar|deg degree|rad radian|hz hertz|ml|l liter litre|percent"
)
UNITS = {alias: names.split()[0] for names in KNOWN_UNITS.split("|") for alias in names.split()}
UNIT_IN_TEXT = re.compile(rf"(.*?[\d)}}])\s*{TEXT}{POWER}((?:\s*{TEXT}{POWER})*)", re.DOTALL)
UNIT_BARE = re.compile(rf"((?:[^a-zA-Z\\]|\\(?:frac|times|cdot|pi|sqrt)|\\%)*[\d)}}]\s*)([a-zA-Z]{{2,}}){POWER}((?:\s+[a-zA-Z]+)*)")
WORDS = re.compile(r"(?i:no)|(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z .'-]*")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
ASSIGNED = re.compile(r"(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\))\s*=\s*([^=<>]+)")
BASED = re.compile(r"([-+]?[0-9A-F]*\d[0-9A-F]*(?:\.[0-9A-F]+)?)_\{?(\d+)\}?")
DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
RATIO = re.compile(rf"([-+]?)(\d*)\\frac\{{({DECIMAL})\}}\{{({DECIMAL})\}}|()()({DECIMAL})/({DECIMAL})")
SCIENTIFIC = re.compile(rf"({DECIMAL})(?:(?:[eE]|\*10\^)\{{?([-+]?\d{{1,3}})\}}?)?")
MARK = re.compile(r"\\[{}]|\\[lr]angle(?![a-zA-Z])|\\cup(?![a-zA-Z])|\\.|[][(){},;]")
OPEN = {"(": "(", r"\langle": "(", "[": "[", "{": "{", r"\{": "{"}
CLOSE = {")": ")", r"\rangle": ")", "]": "]", "}": "}", r"\}": "}"}


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
        depth = deepest = 0
        for char in answer:
            depth += (char in "([{") - (char in ")]}")
            deepest = max(deepest, depth)
        if deepest > self.max_nesting:
            return f"nested deeper than {self.max_nesting}"
        if sum(map(str.isdigit, answer)) > MAX_DIGITS:
            return f"more than {MAX_DIGITS} digits"
        return "a number too large to compute" if EXPLOSIVE.search(answer) else ""


class Clean(NamedTuple):
    """An answer without its typography; `unit` is the name of a known unit, `%`, or empty."""

    text: str
    unit: str


def alternatives(gold: Any) -> list[str] | None:
    r"""The gold answers as text; None if one of them is empty or not an answer at all.

    >>> alternatives([142.0, r"\boxed{7}"])
    ['142', '7']
    """
    texts = []
    for item in gold if isinstance(gold, list | tuple) else [gold]:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or (isinstance(item, float) and not math.isfinite(item)):
            return None
        text = str(int(item) if isinstance(item, float) and item.is_integer() and abs(item) < 1e15 else item)
        text = (last_box(text) or "") if r"\boxed" in text else text
        if not clean(text).text:
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
        depth, first = 0, None
        for brace in BRACE.finditer(text, start + 5, start + SCAN_CHARS):
            ...
    return None


def clean(text: str) -> Clean:
    r"""The answer with one way of writing for each thing, and the unit that was taken off its end.

    >>> clean(r"\$32,\!348"), clean(r"\dfrac12 \text{ cm}^2.")
    (Clean(text='32348', unit=''), Clean(text='\\frac{1}{2}', unit='cm^2'))
    """
    text = text.translate(GLYPHS)
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text, unit = without_unit(text.strip().rstrip("., "))
    text = re.sub(TEXT, r" \1 ", text).strip()
    if not WORDS.fullmatch(text):
        text = re.sub(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*", ",", text)
    if THOUSANDS.fullmatch(text):
        text = re.sub(r"[, ]", "", text)
    return Clean(re.sub(r"^\+\s*", "", text), unit)


def without_unit(text: str) -> Clean:
    """The text before a unit, a counted thing or a percent sign at its end."""
    if match := re.fullmatch(r"(.*[\d)}])\s*\\?%", text, re.DOTALL):
        return Clean(match[1], "%")
    for pattern in (UNIT_IN_TEXT, UNIT_BARE):
        match = pattern.fullmatch(text)
        if not match or not re.search(r"\d", match[1]):
            continue
        name = match[2].strip(" .").lower()
        unit = UNITS.get(name) or UNITS.get(name.removesuffix("s"), "")
        is_counted = len(name) > 3 and (pattern is UNIT_IN_TEXT or match[1].endswith(" "))
        ...
    return Clean(text, "")
