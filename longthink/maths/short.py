"""Short answers of the sciences: a quantity within a tolerance, or a few words."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from longthink.maths.answers import GLYPHS
from longthink.maths.units import COMMENT, TEXT

__all__ = ["Quantity", "plain_text", "plain_words", "quantity", "same_short"]

MAX_CHARS, MAX_EXPONENT = 200, 300
PREFIXED = re.compile(r"^\s*(?:[A-Za-z]\w{0,10}(?:\([\w, ]{1,10}\))?|\\[a-z]+(?:_\w+)?)\s*(?:=|≈|~|\\approx)\s*")
ABOUT = re.compile(r"^\s*(?:≈|~|\\approx|\\sim|about|approximately|approx\.?|roughly|around)\s*", re.IGNORECASE)
NUMBER = re.compile(
    r"\s*([-+]?)\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE]([-+]?\d+))?(?:\s*/\s*(\d+(?:\.\d+)?))?)?"
    r"(?:\s*(?:\*|x(?=\s*10))?\s*10\^\{?\(?\s*([-+]?\d+)\)?\}?)?\s*"
)
UNIT = re.compile(r"(?!.*\b(?:or|and|to|not|but|is)\b)[A-Za-zµμΩÅ°%'\"$€£][A-Za-zµμΩÅ°% ^0-9*/().\-]*")
FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
PER = re.compile(r"\s+per\s+")
NAMES = {"%": "percent", "°C": "degC", "°F": "degF", "°": "degree", "$": "dollar", "€": "euro", "£": "pound_sterling"}
SINGLE = "mgsAKNJWVCFTHLlhMΩ%°$€£"
DIMENSIONLESS = ("rad", "radian", "radians", "degree", "degrees", "deg", "°", "sr", "%", "percent", "rev", "revolutions", "turns")
ARTICLES = {"a", "an", "the"}


class Quantity(NamedTuple):
    """An exact number, the text of its unit (empty for none), and whether it was written as a bare integer."""

    value: Fraction
    unit: str
    is_integer: bool


def plain_text(text: str) -> str:
    r"""The text without LaTeX's dress.

    >>> plain_text(r"$9.8\,\mathrm{m/s^{2}}$"), plain_text(r"\frac{3}{4} \text{ mol}"), plain_text(r"3\times 10^{8}")
    ('9.8 m/s^2', '3/4 mol', '3*10^8')
    """
    text = re.sub(r"\^\s*\{\s*([-+]?\w+)\s*\}", r"^\1", text.translate(GLYPHS))
    text = re.sub(TEXT, r" \1 ", re.sub(TEXT, r" \1 ", text))
    text = FRACTION.sub(r"\1/\2", text).replace("\\%", "%")
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])", "°", text)
    text = re.sub(r"\s*\\(?:times|cdot)(?![a-z])\s*", "*", text)
    text = re.sub(r"\\(?:left|right|displaystyle)(?![a-z])|\$|\\\(|\\\)", " ", text)
    text = re.sub(r"\\mu(?![a-z])\s*", "µ", text).replace("\\Omega", "Ω")
    text = re.sub(r"\\[,;:! ]|~", " ", text)
    return " ".join(text.split()).rstrip(". ")


@lru_cache(4096)
def quantity(text: str) -> Quantity | None:
    """The number and unit a text consists of; None for any other text.

    >>> quantity("v = 9.8 m/s^2")
    Quantity(value=Fraction(49, 5), unit='m/s^2', is_integer=False)
    >>> quantity("3 x 10^8")
    Quantity(value=Fraction(300000000, 1), unit='', is_integer=False)
    >>> quantity("9.8 or 10 m")
    """
    if len(text) > MAX_CHARS:
        return None
    text = ABOUT.sub("", PREFIXED.sub("", plain_text(text)))
    text = re.sub(r"^([-+]?)([$€£])\s*([\d.,]+)$", r"\1\3 \2", text)
    found = NUMBER.match(text)
    if not found or not (found[2] or found[5]):
        return None
    unit = text[found.end() :].strip()
    if unit and not UNIT.fullmatch(unit):
        return None
    sign, digits, power, below, tens = found.groups()
    exponent = int(power or 0) + int(tens or 0)
    if abs(exponent) > MAX_EXPONENT or (below and not float(below)):
        return None
    value = Fraction((digits or "1").replace(",", "")) / Fraction(below or 1) * Fraction(10) ** exponent
    bare = not unit and (digits or "").replace(",", "").isdigit() and not (power or tens or below)
    return Quantity(-value if sign == "-" else value, unit, bare)


def same_short(gold: str, answer: str, tolerance: float) -> bool | None:
    """Whether two answers are the same quantity or the same words; None where neither can be told.

    A unit may be left out, or differ in scale; one of another dimension is wrong. Numbers agree within the relative
    tolerance, except that two bare integers must be equal.

    >>> [same_short("5 km", a, 0.01) for a in ("5000 m", "5.02", "5 kg", "6 km")]
    [True, True, False, False]
    >>> same_short("1024", "1025", 0.01), same_short("The Krebs cycle", "krebs cycle.", 0), same_short("x^2", "x*x", 0)
    (False, True, None)
    """
    g, a = quantity(gold), quantity(answer)
    if g and a:
        return any(near(x, y, tolerance, exact=g.is_integer and a.is_integer) for x, y in scaled(g, a))
    words = plain_words(gold)
    return True if words and words == plain_words(answer) else None


def near(gold: Fraction, answer: Fraction, tolerance: float, *, exact: bool) -> bool:
    return gold == answer or (not exact and abs(gold - answer) <= Fraction(tolerance) * abs(gold))


def scaled(gold: Quantity, answer: Quantity) -> list[tuple[Fraction, Fraction]]:
    """The pairs of numbers of which one must agree: in the same unit, or as written where a unit is missing."""
    if "%" in (gold.unit, answer.unit) and "" in (gold.unit, answer.unit):
        hundredth = gold.value / 100 if gold.unit else gold.value, answer.value / 100 if answer.unit else answer.value
        return [(gold.value, answer.value), hundredth]
    if not gold.unit and answer.unit and not is_unit(answer.unit):
        return []
    if not gold.unit or not answer.unit or plain_unit(gold.unit) == plain_unit(answer.unit):
        return [(gold.value, answer.value)]
    g, a = unit_of(gold.unit), unit_of(answer.unit)
    if g is None or a is None or g.dimensionality != a.dimensionality:
        return []
    try:
        return [(base(gold.value, g), base(answer.value, a))]
    except (OverflowError, ValueError):  # no machine number holds it
        return []


def is_unit(text: str) -> bool:
    """Whether a text behind a number is a unit, or one word for what is counted, and not a factor or a comment.

    >>> [is_unit(text) for text in ("m/s^2", "apples", "sqrt(2)", "x - 3", "i", "pi", "dozen", "thousand")]
    [True, True, False, False, False, False, False, False]
    """
    if text.casefold() in COMMENT.split() or re.search(r"[(\-]", text.replace("^-", "")):
        return False
    unit = unit_of(text)
    if any(len(name) == 1 and name not in SINGLE for name in re.findall(r"[A-Za-z]+", text)):
        return False
    if unit is not None:
        return not unit.dimensionless or text.casefold() in DIMENSIONLESS
    return unit is None and re.fullmatch(r"[A-Za-z]{3,}", text) is not None


def base(value: Fraction, unit: Any) -> Fraction:
    """The value in the base units of its dimension."""
    return Fraction(float(registry().Quantity(float(value), unit).to_base_units().magnitude))  # OverflowError: out of range


def plain_unit(unit: str) -> str:
    return unit.replace(" ", "").removesuffix("s").casefold() if len(unit) > 4 else unit.replace(" ", "")


@lru_cache(1)
def registry() -> Any:
    import pint

    return pint.UnitRegistry(cache_folder=None)


@lru_cache(4096)
def unit_of(text: str) -> Any:
    """The unit of a text; None if it names none that is known."""
    if len(text) > 40 or re.search(r"\d{3}", text):
        return None
    text = PER.sub("/", NAMES.get(text, text)).replace("μ", "µ")
    try:
        return registry().parse_units(text)
    except Exception:  # the registry raises whatever its parser meets
        return None


def plain_words(text: str) -> str:
    """The words of a text in lower case, without articles and punctuation; empty if there are none.

    >>> plain_words("The mitochondrion."), plain_words("12")
    ('mitochondrion', '')
    """
    text = plain_text(text[:MAX_CHARS]).casefold()
    if re.search(r"[=^\\<>+*/_]", text) or not re.search(r"[^\W\d]", text):
        return ""
    words = re.findall(r"\w+", text)
    return " ".join([word for word in words if word not in ARTICLES] or words)
