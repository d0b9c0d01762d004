r"""DeepScaleR's grader by its own rules, oddities included: a string comparison, then a symbolic one.

What is odd about it, and kept: two fractions agree only as strings, so 2/4 is not 1/2; an integer never equals what is
not written as one; algebra is tried only with at most two letters and without `^{`, `^(`, `^12` or `^2^`.
Differences: the symbolic step takes nothing but digits, letters and arithmetic signs, for its parser executes text.
Source: papers of DeepScaleR (section 3.1) and the rules its released grader follows.
"""

import re
from functools import lru_cache

__all__ = ["equal_by_deepscaler"]

UNITS = [
    "degree",
    "cm",
    "centimeter",
    "meter",
    "mile",
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "year",
    "foot",
    "feet",
]
UNITS += ["inch", "yard"]
POWERS = {"million": 6, "billion": 9, "trillion": 12}
SYMBOLS = {"√": "sqrt", "π": "pi", "∞": "inf", "∪": "U", "·": "*", "×": "*"}
TEXT = re.compile(r"\\text\{(.+?)\}")
GROUPED = re.compile(r"(\d),(\d\d\d)(?=$|\D)")
FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
NO_ALGEBRA = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]+")
PARSABLE = re.compile(r"[0-9A-Za-z+\-*/^().,! ]*")
MAX_LETTERS = 2


def equal_by_deepscaler(gold: str, answer: str) -> bool:
    r"""Whether DeepScaleR's grader accepts this answer.

    >>> [equal_by_deepscaler(gold, answer) for gold, answer in (("1/2", "0.5"), ("1/2", "2/4"), ("x+1", "1+x"))]
    [True, False, True]
    """
    return plain_string(gold) == plain_string(answer) or equal_by_sympy(gold, answer)


# -- the string step ---------------------------------------------------------------------------------------------------


@lru_cache(4096)
def plain_string(text: str) -> str:
    r"""The MATH data set's normal form of an answer; the text itself where a fraction, a root or a unit is broken off.

    >>> plain_string(r"\dfrac12 \text{ cm}"), plain_string("k = .5"), plain_string("3/4"), plain_string(r"2\sqrt")
    ('\\frac{1}{2}', '\\frac{1}{2}', '\\frac{3}{4}', '2\\sqrt')
    """
    text = given = text_of(text.strip()).strip()
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for mark in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"):
        text = text.replace(mark, "")
    before, *units = text.split("\\text{ ")
    if len(units) > 1:
        return given
    text = before.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    if text.endswith("\\sqrt"):
        return given
    text = re.sub(r"\\sqrt(?!\{)(.)", r"\\sqrt{\1}", text, flags=re.DOTALL).replace(" ", "")
    if text.endswith("\\frac"):
        return given
    text = braced_fractions(text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(0|-?[1-9]\d*)/(0|-?[1-9]\d*)$", r"\\frac{\1}{\2}", text)


def text_of(answer: str) -> str:
    wrapped = TEXT.fullmatch(answer)
    return wrapped[1] if wrapped else answer


def braced_fractions(text: str) -> str:
    r"""The text with braces round the parts of `\frac12` and `\frac1{72}`; the text itself where one has a single part."""
    head, *parts = text.split("\\frac")
    for part in parts:
        if part.startswith("{"):
            head += "\\frac" + part
        elif len(part) < 2:
            return text
        else:
            bottom = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            head += f"\\frac{{{part[0]}}}{bottom}"
    return head


# -- the symbolic step -------------------------------------------------------------------------------------------------


def equal_by_sympy(gold: str, answer: str) -> bool:
    g, a = normal(gold), normal(answer)
    if g == a:
        return True
    if not a:
        return False
    golds, answers = elements(g), elements(a)
    if len(golds) != len(answers) or (len(golds) > 1 and (g[0], g[-1]) != (a[0], a[-1])):
        return False
    return all(map(same_element, golds, answers))


def same_element(gold: str, answer: str) -> bool:
    if FRACTION.fullmatch(gold) and FRACTION.fullmatch(answer):
        return gold == answer
    if (as_integer(gold) is None) != (as_integer(answer) is None):
        return False
    return difference_is_zero(gold, answer)


@lru_cache(4096)
def normal(text: str) -> str:
    r"""The form the symbolic step compares first.

    >>> normal(r"7 \frac{3}{4} \text{ miles}"), normal("$1,234.0"), normal("(1, 2) or 3")
    ('7+3/4', '1234', '(1,2),3')
    """
    text = text_of(text).replace("\\%", "").replace("\\$", "").replace("$", "").replace("%", "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for name, power in POWERS.items():
        text = text.replace(name, f"*10^{power}")
    for unit in UNITS:
        text = re.sub(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if len(text) > 1 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    if (whole := as_integer(text, grouped=False)) is not None:
        text = str(whole)
    if "\\" in text:
        text = without_latex(text)
    text = re.sub(r"- *", "-", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return text if as_integer(text) is None else str(int(float(text.replace(",", ""))))


def without_latex(text: str) -> str:
    """The text with LaTeX written out: a fraction as a/b, a root as sqrt(x)."""
    from pylatexenc.latex2text import LatexNodes2Text

    text = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    try:
        text = LatexNodes2Text().latex_to_text(text)
    except Exception:  # its parser raises many things at many texts, and the rule is to go on without it
        return text
    for symbol, name in SYMBOLS.items():
        text = text.replace(symbol, name)
    return text.strip()


def as_integer(text: str, *, grouped: bool = True) -> int | None:
    """The integer a text stands for within 1e-7; with `grouped`, commas between thousands are allowed."""
    try:
        value = float(ungrouped(text) if grouped else text)
        return round(value) if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def ungrouped(text: str) -> str:
    while (shorter := GROUPED.sub(r"\1\2", text)) != text:
        text = shorter
    return text


def elements(text: str) -> list[str]:
    """The parts of a tuple or interval without brackets inside; the text itself otherwise."""
    text = ungrouped(text)
    if len(text) > 2 and text[0] in "()[]" and text[-1] in "()[]" and not set("()[]") & set(text[1:-1]):
        return [part.strip() for part in text[1:-1].split(",")]
    return [text] if text else []


@lru_cache(4096)
def difference_is_zero(gold: str, answer: str) -> bool:
    from sympy import simplify
    from sympy.parsing import sympy_parser

    text = f"({gold})-({answer})"
    letters = {c for c in text.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    if len(letters) > MAX_LETTERS or NO_ALGEBRA.search(text) or not PARSABLE.fullmatch(text):
        return False
    how = (*sympy_parser.standard_transformations, sympy_parser.implicit_multiplication_application)
    try:
        return bool(simplify(sympy_parser.parse_expr(text.replace("^", "**"), transformations=how)) == 0)
    except Exception:  # a text sympy cannot read is not equal
        return False
