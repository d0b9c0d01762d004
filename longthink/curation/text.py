r"""Texts as they are compared, never as they are written: typography, notation and the case of letters taken away."""

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from longthink.types import Ints

__all__ = ["grams", "plain", "shingles", "tokens", "values"]

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
DEGREES = re.compile(r"\^\s*(?:\{\s*)?\\circ(?:\s*\})?|\\degree(?![A-Za-z])")
TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|<=|>=|!=|[-+*/=<>^!|%√∪∩∈∉⊂⊆±∓∑∏∫∞∠⌊⌋⌈⌉]")
BRACKETED = re.compile(TOKEN.pattern + r"|[()\[\]{}']")
SPACED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox|emph|operatorname)\s?\{([^{}]*)\}")
SINGLE = re.compile(r"\{\s?(\d+|[^\W\d_])\s?\}")
NUMBER = re.compile(r"\d")
CAPITALS = re.compile(r"(?<![A-Za-z\\])[A-Z]{4,}(?![A-Za-z])")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 (shorter so)
SPELT = {word: str(value) for value, word in enumerate(WORDS)}


def tokens(text: str, *, brackets: bool = False) -> list[str]:
    r"""Words, numbers and operators of a text, in small letters, with one form for each notation; perhaps brackets and primes.

    >>> tokens(r"Find $\dfrac{1}{2}\times x$ if \(x\leq 1{,}000\).") == tokens("find  \\frac{1}{2} \\cdot X if $x \\le 1000$")
    True
    """
    text = SIGN.sub(lambda m: SIGNS[m[0]], unicodedata.normalize("NFKC", text)).replace("{,}", "")
    text = DEGREES.sub(" degrees ", text)
    if brackets:  # but those that only set type: around a text in a formula, and around one letter or number
        text = SINGLE.sub(r" \1 ", SPACED.sub(r" \1 ", text.replace("’", "'").replace("\\(", " ").replace("\\)", " ")))
    text = NOTATION.sub(lambda m: SAME[m[0]], FONTS.sub(" ", SIZING.sub(" ", text)))
    found = (BRACKETED if brackets else TOKEN).findall(text.casefold())
    return [_number(token) if token[0].isdigit() else token for token in found]


def _number(token: str) -> str:
    """A number without the commas of its thousands and zeros behind its point."""
    token = re.sub(r",(?=\d{3}(?:\D|$))", "", token)
    return token.rstrip("0").rstrip(".") if "." in token else token


def plain(found: Sequence[str]) -> str:
    r"""The tokens without blanks, but between two numbers: `abc` is `a b c`, and 12 is not 1 2.

    >>> plain(tokens("(a b c)^{2} = 1 2")) == plain(tokens("$(abc)^2=1\\ 2$"))
    True
    """
    return "".join(" " * (b[0].isdigit() and a[-1:].isdigit()) + b for a, b in zip(("", *found), found, strict=False))


def values(text: str) -> list[str]:
    """What tells two problems of one template apart: numbers, up to twelve also where they are spelt, and words in capitals.

    >>> values("Three cats catch 3.50 mice in 1,200 days"), values("Arrange the letters of PROOF, if A is first")
    (['1200', '3', '3.5'], ['PROOF'])
    """
    found = [SPELT.get(token, token) for token in tokens(text) if token in SPELT or NUMBER.match(token)]
    return sorted(found + CAPITALS.findall(text))


def grams(found: Sequence[str], size: int) -> set[str]:
    """All sequences of `size` tokens; the whole, where there are fewer."""
    return {" ".join(found[i : i + size]) for i in range(max(1, len(found) - size + 1))} if found else set()


def shingles(found: Sequence[str], size: int) -> Ints:
    """The sequences' 32-bit checksums, sorted, each once."""
    return np.unique(np.fromiter((zlib.crc32(gram.encode()) for gram in grams(found, size)), np.int64))
