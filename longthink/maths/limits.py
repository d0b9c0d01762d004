"""How large an answer may be: past these limits algebra takes seconds or gigabytes."""

import re
from itertools import accumulate

__all__ = ["MAX_CHARS", "MAX_NESTING", "excess"]

MAX_CHARS = 1_000
MAX_NESTING = 50
MAX_DIGITS = 1_000
# Towers of powers, and exponents and factorials whose value is too large to write.
EXPLOSIVE = re.compile(
    r"\d[\s)}]*\^[\s{(]*[-+]?[\d.]+[\s)}]*\^[\s{(]*[-+]?\d"
    r"|\d\s*[eE]\s*[-+]?\s*\d{4,}|\^[\s{(]*[-+]?\s*\d{5,}|\d{5,}[\s)}]*!|![\s)}]*!"
)


def excess(answer: str, max_chars: int = MAX_CHARS, max_nesting: int = MAX_NESTING) -> str:
    """Why an answer is too large to compare; empty if it is not.

    >>> excess("2^{3^{4}}"), excess("x^{2}"), excess("7" * 1001)
    ('a number too large to compute', '', 'longer than 1000 characters')
    """
    if len(answer) > max_chars:
        return f"longer than {max_chars} characters"
    if max(accumulate((char in "([{") - (char in ")]}") for char in answer), default=0) > max_nesting:
        return f"nested deeper than {max_nesting}"
    if sum(map(str.isdigit, answer)) > MAX_DIGITS:
        return f"more than {MAX_DIGITS} digits"
    return "a number too large to compute" if EXPLOSIVE.search(answer.replace("**", "^")) else ""
