"""The unit, counted thing or percent sign at the end of an answer, and its name where it is one we know."""

import re

__all__ = ["COMMENT", "TEXT", "without_unit"]

TEXT = r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf|it|sf|tt)|boldsymbol|operatorname)\s*\{([^{}]*)\}"
POWER = r"\s*(\^\s*\{?-?\d+\}?)?"
KNOWN = (
    "mm millimeter|cm centimeter|m meter metre|km kilometer|in inch inche|ft foot feet|yd yard|mi mile|g gram|kg kilogram|"
    "s sec second|min minute|h hr hour|day|week|month|yr year|cent|dollar|deg degree|rad radian|hz hertz|ml|l liter litre|"
    "% percent pct|mi/h mph|km/h kph|rev/min rpm|n newton|j joule|w watt|rev revolution"
)
UNITS = {alias: names.split()[0] for names in KNOWN.split("|") for alias in names.split()}
# What follows a number in words is a counted thing unless it says something about the number.
COMMENT = (
    "or and not is isnt are was no nope wrong incorrect false but maybe if to either any plus minus more less than also "
    "otherwise instead perhaps possibly unless except never none neither nor could would should "
    "thousand million billion trillion "
    "hundred dozen half halves third thirds quarter quarters tenth tenths hundredth hundredths thousandth thousandths "
    "squared cubed factorial negative positive pi times double twice triple divided multiplied by over under of power root"
)
HEAD = r"(?:[^a-zA-Z\\]|\\(?:frac|times|cdot|pi|sqrt)|\\%)*"
IN_TEXT = re.compile(rf"(.*?(?:[\d)}}]|\\pi))\s*((?:{TEXT}{POWER}\s*)+)", re.DOTALL)
BARE = re.compile(rf"({HEAD}(?:[\d)}}]|\\pi)\s*)([a-zA-Z]{{2,}}{POWER}(?:\s+[a-zA-Z]+)*)")
COMPOUND = re.compile(rf"({HEAD}(?:[\d)}}]|\\pi)\s*)([a-zA-Z]+{POWER}\s*(?:/|\bper\b)\s*[a-zA-Z]+{POWER})")
PHRASE = re.compile(r"[a-z][a-z'’. -]*")


def without_unit(text: str) -> tuple[str, str]:
    r"""The text before a unit, a counted thing or a percent sign at its end, and the name of that unit if it has one.

    >>> without_unit(r"5 \text{ km/h}"), without_unit("12 apples"), without_unit("2ab"), without_unit(r"5 \text{ or 7}")
    (('5', 'km/h'), ('12', ''), ('2ab', ''), ('5 \\text{ or 7}', ''))
    """
    if match := re.fullmatch(r"(.*[\d)}])\s*\\?%", text, re.DOTALL):
        return match[1], "%"
    if match := COMPOUND.fullmatch(text):
        unit = named(match[2])
    elif match := IN_TEXT.fullmatch(text):
        unit = named(re.sub(TEXT, r" \1 ", match[2]))
    elif match := BARE.fullmatch(text):  # `2ab` and `2 ab` are products, `2 apples` are not
        unit = named(match[2])
        first = re.match(r"[a-zA-Z]+", match[2])
        name = first[0].lower().removesuffix("s") if first else ""
        if not (match[1].endswith(" ") and (unit or len(name) > 3)) and name not in ("mm", "cm", "km", "kg"):
            unit = None
    if not match or unit is None or not re.search(r"\d", match[1]):
        return text, ""
    return match[1].strip(), unit


def named(text: str) -> str | None:
    """The name of a known unit, simple or compound; empty for any other thing that can be counted; None for what cannot.

    >>> named("miles per hour"), named("cm ^{2}"), named("square feet"), named("or 7"), named("x")
    ('mi/h', 'cm^2', '', None, None)
    """
    text = " ".join(text.split()).strip(" .").lower()
    parts = [simple(part) for part in re.split(r"\s*/\s*|\s+per\s+", text)]
    if all(parts):
        return "/".join(part for part in parts if part)
    words = re.sub(r"\s*\^\s*\{?-?\d+\}?", "", text)
    if (
        len(words) < 2
        or not PHRASE.fullmatch(words.replace("/", " "))
        or set(COMMENT.split()) & set(words.replace("'", "").split())
    ):
        return None
    return ""


def simple(text: str) -> str:
    """The name of a known unit with its power; empty for any other."""
    found = re.fullmatch(r"([a-z%]+)\.?(?:\s*\^\s*\{?(-?\d+)\}?)?", text.strip())
    if not found:
        return ""
    name = UNITS.get(found[1]) or UNITS.get(found[1].removesuffix("s"), "")
    return f"{name}^{found[2]}" if name and found[2] else name
