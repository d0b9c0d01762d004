"""When two mathematical answers are the same: by text, by exact value, by structure, and last by algebra."""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from longthink.maths.numeric import differ
from longthink.maths.units import TEXT, without_unit

__all__ = ["GLYPHS", "clean", "equal", "same_by_algebra", "same_by_library", "same_cheaply"]

TINY = 1e-4  # math-verify rounds to 6 decimals, which says nothing of smaller numbers
GLYPHS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "}
    | {"\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2153": r"\frac{1}{3}"}
    | {"\u2154": r"\frac{2}{3}", "\u2264": r"\le ", "\u2265": r"\ge ", "\u222a": r"\cup ", "\u2205": r"\emptyset "}
) | {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
VAGUE = re.compile(r"\\(?:approx|simeq|sim|[lc]?dots|neq?|mod|bmod|pmod)(?![a-zA-Z])")
MANY_FACTORS = re.compile(r"[a-zA-Z]{31}")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
POWERS_OF_TEN = (("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12))
REWRITES = (
    (r"\\color\s*\{\w+\}|\\textcolor\s*\{\w+\}|\\(?:large|Large|LARGE|huge|Huge|small|bf|rm|it)(?![a-zA-Z])", ""),
    (r"\\underline\s*\{([^{}]*)\}", r"\1"),
    (r"\\mathbb\s*\{?\s*R\s*\}?(?!\s*\^)", r"(-\\infty,\\infty)"),
    (r"(?<=\d)\s*(?:\\text\s*\{)?\s*to\s*\}?\s*(?=\d)", ":"),
    (r"^\(([0-9A-F]+)\)_", r"\1_"),
    (r"√\s*(\d+|[a-zA-Z]|\([^()]*\))", r"\\sqrt{\1}"),
    (r"\{:\}", ":"),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (r"(?<!\\)\\[()]|\\?[$£€]|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|q?quad)(?![a-zA-Z])", " "),
    (r"(?<=\d)\s*(?:\{,\}|,\s*\\!|\\,|\\!)\s*(?=\d{3}(?!\d))", ""),  # thousands
    (r"(?:(?<!\\)\\[!,;: ]|[~\s])+", " "),  # one blank at most: the patterns for units backtrack over them
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(frac|sqrt)\s*([0-9])", r"\\\1{\2}"),
    (r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
    (r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?(?!\s*\d)(?:\s*[CFK](?![a-zA-Z]))?|\\degree(?![a-zA-Z])", ""),
    (r"(?<=\d)\s*\^\s*\{?\s*(?:\\prime\s*)+\}?", ""),  # minutes and seconds of arc
    (r"\\([gl])eq(?:slant)?(?![a-zA-Z])", r"\\\1e "),
    (r"\\varnothing(?![a-zA-Z])|(?i:^\s*(?:\\text\s*\{)?\s*no (?:real )?solutions?\s*\}?\s*$)", r"\\emptyset "),
    *((rf"(?<=\d)\s*(?:\\text\s*\{{)?\s*{name}(?![a-z])\s*\}}?", rf" \\cdot 10^{{{power}}}") for name, power in POWERS_OF_TEN),
    (r"(?<![a-zA-Z\\])(?:infinity|oo)(?![a-zA-Z])", r"\\infty "),
    (r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])", ""),
)
WORDS = re.compile(r"(?i:no)|(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z .'-]*")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
ASSIGNED = re.compile(
    r"([a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\)|\(\s*[a-zA-Z](?:_\{?\w+\}?)?(?:\s*,\s*[a-zA-Z](?:_\{?\w+\}?)?)*\s*\))"
    r"\s*=\s*([^=<>]+)"
)
REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\overline\{(\d+)\}")
MIXED = re.compile(r"([-+]?)(\d+) (\d+)/(\d+)")
BASED = re.compile(r"([-+]?[0-9A-F]*\d[0-9A-F]*(?:\.[0-9A-F]+)?)_\{?(\d+)\}?")
BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
BASE = re.compile(r"\d_\{?(\w+)")
NAME = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
NAMED = re.compile(r"(?!\s*-)(?:\\(?!sqrt|frac|sin|cos|tan|log|ln|exp)[a-zA-Z]+|[a-zA-Z{}+ -])+")  # a+b, not 2x or x^2
BOUND = re.compile(r"\s*([a-z])\s*(<|>|\\[gl]e(?![a-z]))\s*([^<>=]+)")
RELATION = re.compile(r"[<>]|\\[gl]e(?![a-zA-Z])")
DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
RATIO = re.compile(rf"([-+]?)(\d*)\\frac\{{({DECIMAL})\}}\{{({DECIMAL})\}}|()()({DECIMAL})/({DECIMAL})")
SCIENTIFIC = re.compile(rf"({DECIMAL})(?:(?:[eE]|\*10\^)\{{?([-+]?\d{{1,3}})\}}?)?")
MARK = re.compile(r"\\[{}]|\\[lr](?:angle|brace)(?![a-zA-Z])|\\cup(?![a-zA-Z])|\\.|[][(){},;]")
OPEN = {"(": "(", r"\langle": "(", "[": "[", "{": "{", r"\{": "{", r"\lbrace": "{"}
CLOSE = {")": ")", r"\rangle": ")", "]": "]", "}": "}", r"\}": "}", r"\rbrace": "}"}


def clean(text: str) -> tuple[str, str]:
    r"""The answer with one way of writing for each thing, and the unit taken off its end if it is a known one.

    >>> clean(r"\$32,\!348"), clean(r"\dfrac12 \text{ cm}^2.")
    (('32348', ''), ('\\frac{1}{2}', 'cm^2'))
    """
    text = text.translate(GLYPHS)
    if TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"{(\1 \\cdot \\frac{\\pi}{180})}", text)
    text = re.sub(rf"_\s*\{{?\s*{TEXT}\s*\}}?", lambda m: "_{" + BASES.get(m[1].strip().lower(), m[0][1:]) + "}", text)
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    text, unit = without_unit(text.strip().rstrip("., "))
    text = re.sub(TEXT, r" \1 ", text).strip().rstrip(". ")
    if enclosing(text)[0] == "{}" and text[0] == "{":
        text = text[1:-1].strip()
    if not WORDS.fullmatch(text):
        text = re.sub(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*", ",", text)
    if THOUSANDS.fullmatch(text):
        text = re.sub(r"[, ]", "", text)
    return re.sub(r"^\+\s*", "", text), unit


@lru_cache(4096)
def key(text: str) -> str:
    r"""What two answers have in common when they differ in spacing only, or words in case only.

    >>> key(r"x_{1} \cdot 2"), key("(C)"), key("East")
    ('x_1*2', 'C', 'east')
    """
    if WORDS.fullmatch(text) or re.fullmatch(r"[A-Za-z]{3,}[ ,]+\d+", text):
        return " ".join(text.casefold().split())
    text = re.sub(r"\\(?:cdot|times)(?![a-zA-Z])", "*", text)
    text = re.sub(r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2", text)
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"^\(([A-Z])\)$", r"\1", text)


def number(text: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, ratio, mixed number or power of ten; None for anything else.

    >>> number(r"1\frac{4}{5}"), number("1e-3"), number(r"-7.5 \times 10^{2}"), number("2x")
    (Fraction(9, 5), Fraction(1, 1000), Fraction(-750, 1), None)
    """
    text = re.sub(r"^([-+]?)10\^", r"\g<1>1*10^", key(text))
    try:
        if match := RATIO.fullmatch(text):
            sign, whole, top, bottom = match.groups()[:4] if match[3] else match.groups()[4:]
            value = Fraction(top) / Fraction(bottom)
            if whole and not 0 < value < 1:
                return None
            return (int(whole or 0) + value) * (-1 if sign == "-" else 1)
        if match := REPEATING.fullmatch(text):
            sign, whole, fixed, block = match.groups()
            nines = int("9" * len(block)) * 10 ** len(fixed)
            value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed)) + Fraction(int(block), nines)
            return -value if sign == "-" else value
        if match := MIXED.fullmatch(text):
            part = Fraction(int(match[3]), int(match[4]))
            return (int(match[2]) + part) * (-1 if match[1] == "-" else 1) if 0 < part < 1 else None
        if match := SCIENTIFIC.fullmatch(text):
            return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0)
    except (ValueError, ZeroDivisionError):
        pass
    return None


def same_number(gold: Fraction, answer: Fraction) -> bool:
    """Equal, or a decimal within a millionth of a fraction that no decimal can write.

    >>> same_number(Fraction(1, 3), Fraction("0.333333")), same_number(Fraction("0.1"), Fraction("0.10000001"))
    (True, False)
    """
    if gold == answer:
        return True
    is_decimal = [pow(10, n.denominator.bit_length(), n.denominator) == 0 for n in (gold, answer)]
    whole = gold.denominator == 1 or answer.denominator == 1
    return is_decimal[0] != is_decimal[1] and not whole and abs(gold - answer) <= max(abs(gold), abs(answer)) / 10**6


def same_based(gold: str, answer: str) -> bool | None:
    """Whether digits written to a base (`52_8`) are the same; None if neither is; the answer may leave its base out."""
    g, a = BASED.fullmatch(key(gold)), BASED.fullmatch(key(answer))
    if g:
        return g.groups() == a.groups() if a else g[1] == key(answer)
    if not a:
        return None
    try:
        return number(gold) == int(a[1], int(a[2]))
    except ValueError:
        return False


def equal(gold: str, answer: str) -> bool:
    """Whether an answer is the gold answer, by the cheapest comparison that can tell."""
    (g, g_unit), (a, a_unit) = clean(gold), clean(answer)
    if g_unit and a_unit and g_unit != a_unit:
        return False
    if key(g) == key(a):
        return True
    words = [text for text in (g, a) if WORDS.fullmatch(text)]
    if len(words) == 2 or any(len(word) > 4 for word in words):  # the algebra reads words as products of letters
        return False
    if (based := same_based(g, a)) is not None:
        return based
    x, y = number(g), number(a)
    if x is not None and y is not None:
        percents = (x / 100 if g_unit == "%" else x), (y / 100 if a_unit == "%" else y)
        return same_number(x, y) or (g_unit != a_unit and same_number(*percents))
    m, n = ASSIGNED.fullmatch(g), ASSIGNED.fullmatch(a)
    if m and n:
        return equal(m[2], n[2]) if key(m[1]) == key(n[1]) else same_structure(g, a)
    if n and "=" not in g:
        return equal(g, n[2])
    if m and "=" not in a:
        return equal(m[2], a)
    if "=" in a and "=" not in g and len(split(a)) == 1:
        return same_chain(g, a)
    if (x_or := as_union(g)) or as_union(a):
        return equal(x_or or g, as_union(a) or a)
    if g.count(":") > 1 or a.count(":") > 1:
        return same_ratio(g.split(":"), a.split(":"))
    return same_structure(g, a)


def as_union(text: str) -> str:
    r"""Two or more bounds of one variable as a union of intervals; empty for anything else.

    >>> as_union(r"x<-1,x \ge 1"), as_union("x<1")
    ('(-\\infty,-1)\\cup[1,\\infty)', '')
    """
    bounds = [BOUND.fullmatch(part) for part in split(text)]
    if len(bounds) < 2 or None in bounds or len({b[1] for b in bounds if b}) > 1:
        return ""
    parts = []
    for _, sign, value in (b.groups() for b in bounds if b):
        below, closed = sign in ("<", r"\le"), "\\" in sign
        parts.append(rf"(-\infty,{value}{'])'[not closed]}" if below else rf"{'[('[not closed]}{value},\infty)")
    return r"\cup".join(parts)


def same_chain(gold: str, answer: str) -> bool:
    """Whether each side of a chain of equations is the gold, letters at its beginning aside: a+b=2+3=5 is 5, 4=5 is not."""
    first, *sides = answer.split("=")
    bare = re.sub(r"\([^()]*\)|_\{?\w+\}?", "", re.sub(r"\[([a-zA-Z]+)\]", r"\1", first))
    named = NAMED.fullmatch(bare)
    return all(equal(gold, side) for side in ([] if named else [first]) + sides)


def same_ratio(golds: list[str], answers: list[str]) -> bool:
    """Whether two ratios of several terms have equal terms, or terms that are proportional numbers."""
    if len(golds) != len(answers):
        return False
    x, y = [number(g) for g in golds], [number(a) for a in answers]
    if not all(x) or not all(y):  # something else than a number, or a zero
        return all(map(equal, golds, answers))
    return all(p * y[0] == q * x[0] for p, q in zip(x, y, strict=True))  # type: ignore[operator]


def same_cheaply(gold: str, answer: str) -> bool:
    """Whether two answers are the same text or the same exact number; no algebra."""
    (g, g_unit), (a, a_unit) = clean(gold), clean(answer)
    if g_unit and a_unit and g_unit != a_unit:
        return False
    x, y = number(g), number(a)
    return key(g) == key(a) or (x is not None and y is not None and same_number(x, y))


def same_structure(gold: str, answer: str) -> bool:
    """Compare tuples, intervals, sets and lists part by part; everything else by algebra."""
    (g, golds), (a, answers) = structure(gold), structure(answer)
    if "{}" in (g, a):
        return {g, a} <= {"{}", ""} and same_collection(golds, answers)
    if g == a == "union":
        return same_collection(golds, answers) or same_by_algebra(gold, answer)
    if "union" in (g, a) or g == a == "" or ("" in (g, a) and RELATION.search(gold + answer)):
        return same_by_algebra(gold, answer)
    return g == a and len(golds) == len(answers) and all(map(equal, golds, answers))


def structure(text: str) -> tuple[str, list[str]]:
    r"""The brackets of a text and its parts: "{}" for sets and lists, "" for what has no parts.

    >>> structure("(1, x]"), structure(r"\{1\}"), structure(r"1 \pm x"), structure("(1)")
    (('(]', ['1', ' x']), ('{}', ['1']), ('{}', ['1 + x', '1 - x']), ('', ['(1)']))
    """
    kind, parts = "{}", split(text)
    if len(parts) == 1:
        kind, inside = enclosing(text)
        parts = split(inside)
        if len(parts) == 1 and kind in ("()", ""):
            kind, parts = "", [text]
            if len(unions := split(text, (r"\cup",))) > 1:
                return "union", unions
    if kind in ("{}", ""):
        parts = [part.replace(r"\pm", sign) for part in parts for sign in ("+-" if r"\pm" in part else "+")]
    return kind or "{}" * (len(parts) > 1), parts


def split(text: str, at: tuple[str, ...] = (",", ";")) -> list[str]:
    """The pieces of a text between separators that stand outside all brackets."""
    depth, start, pieces = 0, 0, []
    for mark in MARK.finditer(text):
        depth += (mark[0] in OPEN) - (mark[0] in CLOSE)
        if depth == 0 and mark[0] in at:
            pieces.append(text[start : mark.start()])
            start = mark.end()
    return [*pieces, text[start:]]


def enclosing(text: str) -> tuple[str, str]:
    """The pair of brackets around a whole text, and the text inside; "" and the text itself if there is none."""
    first, depth = MARK.match(text), 0
    for mark in MARK.finditer(text) if first and first[0] in OPEN else ():
        depth += (mark[0] in OPEN) - (mark[0] in CLOSE)
        if depth == 0 and first and mark.end() == len(text):
            return OPEN[first[0]] + CLOSE[mark[0]], text[first.end() : mark.start()]
        if depth == 0:
            break
    return "", text


def same_collection(golds: list[str], answers: list[str]) -> bool:
    """Whether the parts can be paired off in some order."""
    if len(golds) != len(answers):
        return False
    left = list(answers)
    for gold in golds:
        left.sort(key=lambda answer: key(answer) != key(gold))  # the cheap comparison first
        match = next((i for i, answer in enumerate(left) if equal(gold, answer)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def same_by_algebra(gold: str, answer: str) -> bool:
    """What math-verify says, unless it is a truth it reached by overlooking case, a base or a tiny difference."""
    from math_verify import verify
    from sympy import Expr, nan, oo, zoo
    from sympy.core import random

    if (
        differ(gold, answer)
        or ("_" in answer and "_" not in gold)
        or MANY_FACTORS.search(answer)
        or sorted(VAGUE.findall(gold)) != sorted(VAGUE.findall(answer))
    ):
        return False
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its alarm is off, which is meant
    random.seed(0)  # simplification tries numbers at random; a verdict must not depend on what was compared before
    pair = told_apart(gold, answer)
    if pair is None or sorted(BASE.findall(gold)) != sorted(BASE.findall(answer)):
        return False
    g, a = map(parsed, pair)
    if isinstance(g, Expr) and isinstance(a, Expr) and (g.has(oo, -oo, zoo, nan) or a.has(oo, -oo, zoo, nan)):
        return bool(g == a)
    if g is None or a is None or not verify(g, a, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True):
        return False
    if not (getattr(g, "is_number", False) and getattr(a, "is_number", False)):
        return True
    x, y = g.evalf(20), a.evalf(20)
    largest = max(abs(x), abs(y))
    return bool(largest >= TINY or abs(x - y) <= largest / 10**9)


def told_apart(gold: str, answer: str) -> tuple[str, str] | None:
    """Both texts with X renamed where x occurs too, for the parser takes one for the other; None if that cannot be done."""
    names = set(NAME.findall(gold + " " + answer))
    clashes = sorted(n for n in names if n != n.lower() and n.lower() in names)
    spare = [c for c in "abchjklmnpqrstuvwxyz" if c not in names and c.upper() not in names]
    if any(len(n) > 1 for n in clashes) or len(clashes) > len(spare):
        return None
    new = dict(zip(clashes, spare[: len(clashes)], strict=True))

    def rename(text: str) -> str:
        return NAME.sub(lambda m: new.get(m[0], m[0]), text)

    return rename(gold), rename(answer)


@lru_cache(4096)
def parsed(text: str) -> Any:
    """The expression math-verify's parser reads in the whole of a LaTeX text, with `i` the imaginary unit; None for none."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy import I

    nothing_lost = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    try:
        latex = normalize_latex(rf"\boxed{{{text}}}", config=nothing_lost)
        real = not should_treat_as_complex(latex)
        found = latex2sympy(latex, is_real=real, convert_degrees=False, normalization_config=None)
    except Exception:  # what it raises at a text it cannot read may be anything
        return None
    return found.xreplace({s: I for s in found.free_symbols if s.name == "i"}) if hasattr(found, "xreplace") else None


def same_by_library(gold: str, answer: str) -> bool:
    """What math-verify says with its own settings, of the answer in a box. Raises: ValueError for a gold it cannot read."""
    from math_verify import verify

    g, a = parsed_by_library(gold), parsed_by_library(answer)
    if not g:
        raise ValueError("math-verify reads no answer in the gold")
    return bool(verify(g, a, timeout_seconds=None, raise_on_error=True))


@lru_cache(4096)
def parsed_by_library(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex = LatexExtractionConfig(boxed_match_priority=0)
    return parse(rf"\boxed{{{text}}}", [latex], parsing_timeout=None, raise_on_error=True)
