"""Where the answer stands in a text: the last box, a phrase that states it, or the last thing that looks like one."""

import re

__all__ = ["answer_tag", "deepscaler_box", "last_box", "last_formula", "last_number", "stated_answer"]

SCAN_CHARS, SCAN_BOXES = 20_000, 64  # how far a box is followed; how many boxes that never close are passed over
TAIL_CHARS = 4_000  # how far back an answer without a box is looked for
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
STATED = re.compile(r"(?:(?:final|correct|right)\s+)?\banswer\b\s*(?:is|are|=|:)(?:\s*:)?", re.IGNORECASE)
SENTENCE_END = re.compile(r"\n|[.;!?](?=\s|$)")
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
NUMBER = re.compile(r"-?(?:\\frac\{\d+\}\{\d+\}|\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?)")
DECORATION = " \t\r\n*_`"


def last_box(text: str) -> str | None:
    r"""What the last `\boxed{…}` or `\fbox{…}` that closes holds; of boxes in one another the outermost.

    >>> last_box(r"\boxed{1} then \fbox{\frac{1}{2}} or \boxed{3")
    '\\frac{1}{2}'
    >>> last_box(r"\boxed{\boxed{5}}"), last_box(r"\boxed{6 or \boxed{5}}")
    ('5', '6 or {5}')
    """
    start, best, found = len(text), len(text), None
    for _ in range(SCAN_BOXES):
        start = max(text.rfind(r"\boxed", 0, start), text.rfind(r"\fbox", 0, start))
        if start < 0:
            break
        opening = BOX.match(text, start)
        inside = braced(text, opening.end()) if opening else None
        if opening and inside is not None and (found is None or opening.end() + len(inside) > best):
            best, found = start, inside
    if found is None:
        return None
    alone = BOX.match(found.strip())
    if alone and braced(found.strip(), alone.end()) == found.strip()[alone.end() : -1]:
        return last_box(found)
    return BOX.sub("{", found)


def braced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes it, if that is near enough."""
    depth = 1
    for brace in BRACE.finditer(text, start, start + SCAN_CHARS):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[start : brace.start()]
    return None


def deepscaler_box(text: str) -> str | None:
    r"""What the last `\boxed{` holds by DeepScaleR's rules: no blank before the brace, escaped braces count, no second try.

    >>> deepscaler_box(r"\boxed{1} and \boxed{\{2\}}"), deepscaler_box(r"\boxed{1} and \boxed 2"), deepscaler_box(r"\fbox{1}")
    ('\\{2\\}', None, None)
    """
    at = text.rfind(r"\boxed")
    start = at + len(r"\boxed{")
    if at < 0 or text[start - 1 : start] != "{":
        return None
    depth = 1
    for brace in re.finditer(r"[{}]", text[start : start + SCAN_CHARS]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : start + brace.start()]
    return None


def answer_tag(text: str) -> str | None:
    """What the last `<answer>…</answer>` holds; None if that is nothing.

    >>> answer_tag("<answer>1</answer> <answer> 2 </answer> </answer> <answer>3")
    '2'
    """
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    return text[start + len("<answer>") : text.find("</answer>", start)].strip() or None if start >= 0 else None


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is" or "answer:", to the end of its sentence or line.

    >>> stated_answer("Is the answer 3? No. **Final Answer:** 4.5 m/s. Done"), stated_answer("4")
    ('4.5 m/s', None)
    """
    tail = text[-TAIL_CHARS:]
    for found in reversed(list(STATED.finditer(tail))):
        rest = tail[found.end() :].lstrip(DECORATION)
        end = SENTENCE_END.search(rest)
        if said := (rest[: end.start()] if end else rest).strip(DECORATION):
            return said
    return None


def last_formula(text: str) -> str | None:
    r"""The last text between dollar signs or `\(…\)` or `\[…\]`.

    >>> last_formula(r"so $x=1$, or \(2\).")
    '2'
    """
    found = list(FORMULA.finditer(text[-TAIL_CHARS:]))
    return next((group for group in found[-1].groups() if group), "").strip() or None if found else None


def last_number(text: str) -> str | None:
    r"""The last number or fraction of a text.

    >>> last_number("between 3 and 1,234.5 apples"), last_number("none")
    ('1,234.5', None)
    """
    found = NUMBER.findall(text[-TAIL_CHARS:])
    return found[-1].rstrip(",") if found else None
