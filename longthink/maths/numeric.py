"""A quick look at whether two expressions can be equal: their values at one point.

Only a difference is believed. What this reader does not know, or what can be read in two ways, has no value here.
"""

import cmath
import re

__all__ = ["differ"]

TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|\\(frac|sqrt|pi|cdot|times)(?![a-zA-Z])|([a-zA-Z])|([-+*/^(){}\[\]]))")
CLOSING = {"(": ")", "{": "}", "[": "]"}
FUNCTIONS = "fghFGHPQ"  # before a parenthesis these are more likely functions than factors
CONSTANTS = {"e": cmath.e, "i": 1j}
UNREADABLE = re.compile(r"[<>=|]|\\(?:[gl]e|math\w+|text\w*|begin|end|in|cup|infty|operatorname|emptyset)(?![a-zA-Z])")
RELATIVE = 1e-5
MAX_POWER = 1e4


def differ(one: str, other: str) -> bool:
    r"""Whether two expressions are certainly not equal.

    >>> differ(r"\sqrt{51}", "11"), differ("p - q", "4"), differ("(x+1)^2", "x^2+2x+1"), differ(r"\sin x", "x")
    (True, True, False, False)
    """
    if UNREADABLE.search(one) or UNREADABLE.search(other):
        return False
    try:
        x, y = Reader(one).value(), Reader(other).value()
    except (ValueError, ArithmeticError, RecursionError):
        return False
    return abs(x - y) > RELATIVE * max(abs(x), abs(y))


def at(letter: str) -> complex:
    """The value of a constant or a variable: some positive number, another for each letter."""
    return CONSTANTS.get(letter, 0.4 + ord(letter) * 0.6180339887498949 % 1.7)


class Reader:
    """One pass over an expression. Raises: ValueError for what it cannot read in one way."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        text = text.strip()
        while at < len(text):
            found = TOKEN.match(text, at)
            if not found:
                raise ValueError(text[at : at + 10])
            number, command, letter, sign = found.groups()
            self.tokens.append({"cdot": "*", "times": "*"}.get(command, "\\" + command) if command else number or letter or sign)
            at = found.end()
        self.tokens.append("")
        self.place = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise ValueError(f"no {token}")

    def value(self) -> complex:
        found = self.sum()
        self.expect("")
        return found

    def sum(self) -> complex:
        sign = -1 if self.next in "+-" and self.next and self.take() == "-" else 1
        total = sign * self.product()
        while self.next in ("+", "-"):
            sign = -1 if self.take() == "-" else 1
            total += sign * self.product()
        return total

    def product(self) -> complex:
        """Factors; what follows a slash must be one factor, and no number may stand behind a factor without a sign."""
        total, number, divided = self.power(), self.tokens[self.place - 1], False
        while True:
            if self.next == "*":
                self.take()
                total *= self.power()
            elif self.next == "/":
                self.take()
                total, divided = total / self.power(), True
            elif self.next and (self.next[0] in "\\({" or self.next.isalpha()):
                mixed = self.next == "\\frac" and number[:1].isdigit()
                if divided or mixed:
                    raise ValueError("can be read in two ways")
                total *= self.power()
            elif self.next and (self.next[0].isdigit() or self.next[0] == "."):
                raise ValueError("a number behind a factor")
            else:
                return total
            number = self.tokens[self.place - 1]

    def power(self) -> complex:
        base = self.atom()
        if self.next != "^":
            return base
        self.take()
        if len(self.next) > 1 and self.next[0].isdigit():
            raise ValueError("x^12 can be read in two ways")
        exponent = self.atom()
        if abs(exponent) > MAX_POWER or self.next == "^":
            raise ValueError("a large power")
        return complex(base**exponent)

    def atom(self) -> complex:
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            return complex(float(token))
        if token == "\\pi":
            return cmath.pi
        if token == "\\frac":
            above = self.group("{")
            return above / self.group("{")
        if token == "\\sqrt":
            degree = self.group("[") if self.next == "[" else 2
            return complex(self.group("{") ** (1 / degree))
        if token in ("(", "{"):
            self.place -= 1
            return self.group(token)
        if token.isalpha() and not (self.next == "(" and token in FUNCTIONS):
            return at(token)
        raise ValueError(token)

    def group(self, opening: str) -> complex:
        self.expect(opening)
        found = self.sum()
        self.expect(CLOSING[opening])
        return found
