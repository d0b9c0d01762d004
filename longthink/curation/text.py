r"""Texts as they are compared, never as they are written: typography, notation and the case of letters taken away."""

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from longthink.types import Ints

__all__ = ["grams", "numbers", "shingles", "tokens"]

SIZING = re.compile(
    r"\\(?:[,;:!> ]|(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|quad|qquad|begin|end)(?![A-Za-z]))"
)
FONTS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathbb|mathcal|operatorname|emph|mbox|boldsymbol)(?![A-Za-z])"
)
SAME = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\leq": "<=",
    r"\le": "<=",
    r"\geq": ">=",
    r"\ge": ">=",
    r"\neq": "!=",
    r"\ne": "!=",
    r"\times": "*",
    r"\cdot": "*",
    r"\ast": "*",
    r"\div": "/",
    r"\ldots": "...",
    r"\cdots": "...",
    r"\dots": "...",
    r"\lbrace": "{",
    r"\rbrace": "}",
    r"\degree": " degrees ",
    r"\circ": " degrees ",
}
NOTATION = re.compile("|".join(sorted((re.escape(key) + r"(?![A-Za-z])" for key in SAME), key=len, reverse=True)))
SIGNS = {
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "×": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "°": " degrees ",
}
SIGN = re.compile("|".join(map(re.escape, SIGNS)))
TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|<=|>=|!=|[-+*/=<>^!|%]")
NUMBER = re.compile(r"\d")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 (shorter so)
SPELT = {word: str(value) for value, word in enumerate(WORDS)}


def tokens(text: str) -> list[str]:
    r"""Words, numbers and operators of a text, in small letters, with one form for each notation.

    >>> tokens(r"Find $\dfrac{1}{2}\times x$ if \(x\leq 1{,}000\).") == tokens("find  \\frac{1}{2} \\cdot X if $x \\le 1000$")
    True
    """
    text = SIGN.sub(lambda m: SIGNS[m[0]], unicodedata.normalize("NFKC", text)).replace("{,}", "")
    text = NOTATION.sub(lambda m: SAME[m[0]], FONTS.sub(" ", SIZING.sub(" ", text)))
    return [_number(token) if token[0].isdigit() else token for token in TOKEN.findall(text.casefold())]


def _number(token: str) -> str:
    """A number without the commas of its thousands and zeros behind its point."""
    token = re.sub(r",(?=\d{3}(?:\D|$))", "", token)
    return token.rstrip("0").rstrip(".") if "." in token else token


def numbers(found: Sequence[str]) -> list[str]:
    """The numbers among tokens, sorted; those up to twelve also where they are spelt.

    >>> numbers(tokens("Three cats catch 3.50 mice in 1,200 days"))
    ['1200', '3', '3.5']
    """
    return sorted(SPELT.get(token, token) for token in found if token in SPELT or NUMBER.match(token))


def grams(found: Sequence[str], size: int) -> set[str]:
    """All sequences of `size` tokens; the whole, where there are fewer."""
    return {" ".join(found[i : i + size]) for i in range(max(1, len(found) - size + 1))} if found else set()


def shingles(found: Sequence[str], size: int) -> Ints:
    """The sequences' 32-bit checksums, sorted, each once."""
    return np.unique(np.fromiter((zlib.crc32(gram.encode()) for gram in grams(found, size)), np.int64))
