"""What kind of question a text is, by rules: what makes it unfit for an answer that a program compares.

Rules look for wording (content.toml), not for meaning; docs/curation.md has their precision and recall on questions that were
labelled before there were rules.
"""

import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from longthink.rewards.language import script

__all__ = ["FAMILIES", "LONG", "kinds"]

LONG = 350  # words
LOOK = 20_000  # characters of a text that are looked at
WORDING = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _compiled(name: str) -> re.Pattern[str]:
    return re.compile(WORDING["forms"][name], re.IGNORECASE)


FIGURE = re.compile(r"\[asy\].{10,20000}?(?:\[/asy\]|$)|\\begin\{tikzpicture\}.{10,20000}?(?:\\end\{tikzpicture\}|$)", re.DOTALL)
HINT = re.compile(r"\(\s*hint\b[^()]{0,300}\)", re.IGNORECASE)
SOLVED = re.compile(r"Subproblem \d+:[^\0]{0,4000}?Final answer:[^\n]{0,300}")  # of Minerva: what was asked before
FONT = re.compile(r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:rm|bf|sf|it)|bf|rm|emph|underline)\s*\{([^{}]{0,200})\}")
SPACE = re.compile(r"<br\s*/?>|</?(?:p|b|i|strong|em)>|\\qquad|\\quad|\\hspace\*?\{[^}]{0,20}\}|~|\\\\|\\ |\\;|\\,")
ITEM = re.compile(r"</?(?:li|ul|ol)>|\\item\b|\\begin\{(?:enumerate|itemize)\}|\\end\{(?:enumerate|itemize)\}")
MATHS = re.compile(r"\$\$[^$]{0,2000}\$\$|\$[^$]{0,2000}\$|\\\[.{0,2000}?\\\]|\\\(.{0,2000}?\\\)", re.DOTALL)
DRAWN = _compiled("drawn")
BLANKS = re.compile(r" ([.,;:?!])")
SENTENCE = re.compile(r"(?<=[.?!;])\s+|\n+")
START = r"(?:^|[.;:!?,)\n]\s*|\b(?:and|then|hence|please|must|or|you|we|can|also|either|thus|briefly|carefully|clearly|now|but) )"
LEAD = _compiled("lead")
ASK = _compiled("ask")
ORDER = _compiled("order")
ORDERED = re.compile(r", (?:then )?(?:find|determine|compute|calculate|evaluate|solve|prove|show that)\b", re.IGNORECASE)
WONDER = re.compile(r"\b(?:what|how|which|who|whom|whose|when|where)\b", re.IGNORECASE)
YES = _compiled("yes")
CONDITIONS = re.compile(r"\b(?:conditions?|holds?|satisf\w+|properties|such that|where|with)\b", re.IGNORECASE)
GIVEN = re.compile(r"(?:let|if|suppose|given|for|in|on|when|assume|assuming|quick|hey|hi)\b", re.IGNORECASE)
SUMMED = re.compile(
    r"\b(?:difference|sum|product|ratio|quotient|average|distance) (?:of|between) (?:the|its|their)\b", re.IGNORECASE
)
MARK = re.compile(
    r"(?:^|(?<=[\s$>(\[{,;:.?]))[(\[]?(?P<mark>[A-J]|[a-f]|[А-Габ]|[ivIV]{1,4}|[1-9](?:\.[1-9])?)\s?[)\].:](?=[)\]}$\s\\(\[+\d-]|[^\W\d_])"
)
RUNS = [list(r) for r in ("ABCDEFG", "FGHJ", "abcdef", "АБВГ", "абвг", "123456789")]
RUNS += [["i", "ii", "iii", "iv", "v", "vi"], ["I", "II", "III", "IV", "V", "VI"]]
KNOWN = ("LATIN", "MATHEMATICAL", "DOUBLE", "SCRIPT", "BLACK", "")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


class Part(NamedTuple):
    """A lettered or numbered piece of a text."""

    mark: str
    text: str
    start: int

    @property
    def asks(self) -> bool:
        return "?" in self.text or bool(ORDER.match(LEAD.sub("", self.text)))


class Text:
    """A question as the rules see it: without drawings and fonts, formulas as V, in sentences."""

    def __init__(self, text: str) -> None:
        self.raw = text
        bare = SOLVED.sub(" ", FIGURE.sub(" [drawing] ", HINT.sub(" ", unicodedata.normalize("NFKC", text[:LOOK]))))
        plain = SPACE.sub(" ", ITEM.sub("\n* ", bare))
        for _ in range(2):
            plain = FONT.sub(r"\1", plain)
        self.plain = plain.strip()
        self.words = BLANKS.sub(r"\1", re.sub(r"[ \t]+", " ", MATHS.sub(" V ", self.plain))).strip()
        self.sentences = [s.strip() for s in SENTENCE.split(self.words) if s.strip()]

    @property
    def asks(self) -> list[str]:
        """The sentences that ask something beside yes or no."""
        found = []
        for sentence in self.sentences:
            asked = sentence.endswith("?") and '"' not in sentence and len(sentence.split()) > 3
            if ASK.match(LEAD.sub("", sentence)) or ORDERED.search(sentence) or (asked and WONDER.search(sentence)):
                found.append(sentence)
        return found

    def parts(self) -> list[Part]:
        """The longest run of marks in order, A B C, (i) (ii), 1. 2.; empty where there are not two."""
        marks = [(m["mark"][-1] if "." in m["mark"] else m["mark"], m.end(), m.start()) for m in MARK.finditer(self.plain)]
        best: list[tuple[str, int, int]] = []
        for run in RUNS:
            found: list[tuple[str, int, int]] = []
            for mark in marks:
                if len(found) < len(run) and mark[0] == run[len(found)]:
                    found.append(mark)
            best = found if len(found) > len(best) else best
        if len(best) < 2:
            return []
        ends = [start for _, _, start in best[1:]] + [len(self.plain)]
        return [Part(mark, self.plain[end:stop].strip(), start) for (mark, end, start), stop in zip(best, ends, strict=True)]

    def stem(self, parts: Sequence[Part]) -> str:
        """The last sentence before the first part, and how it ends."""
        before = self.plain[: parts[0].start].rstrip(" ($[{\n*")
        return ([s for s in SENTENCE.split(before) if s.strip()] or [""])[-1].strip()


@lru_cache(maxsize=1)
def _wording() -> dict[str, dict[str, tuple[re.Pattern[str], ...]]]:
    seen = WORDING["words"]["seen"]
    ready = {
        family: {
            key: tuple(re.compile(p.replace("START", START).replace("SEEN", seen), re.IGNORECASE) for p in patterns)
            for key, patterns in lists.items()
        }
        for family, lists in WORDING.items()
        if family not in ("words", "forms")
    }
    return ready


@lru_cache(maxsize=1)
def _languages() -> tuple[frozenset[str], frozenset[str]]:
    words = WORDING["words"]
    english = frozenset(words["english"].split())
    return english, frozenset(words["foreign"].split()) - english - {"a", "i", "on"}


def _said(family: str, text: str) -> str:
    """The first wording of a family that is there, with what takes one away taken away before."""
    patterns = _wording()[family]
    for pattern in patterns.get("unless", ()):
        text = pattern.sub(" ", text)
    return next((found[0].strip()[:80] for pattern in patterns["found"] if (found := pattern.search(text))), "")


def _orders(sentence: str) -> bool:
    """Whether a sentence orders something, at its beginning or behind a comma."""
    return bool(ORDER.match(LEAD.sub("", sentence)) or ORDERED.search(sentence))


def _are_options(parts: Sequence[Part], text: Text) -> bool:
    """Whether pieces are options: none of them asks anything, and what stands before them does, or breaks off."""
    if len(parts) < 3 or any(part.asks for part in parts):
        return False
    behind = [s for s in SENTENCE.split(parts[-1].text)[1:] if s.strip()]
    if any(ORDER.match(LEAD.sub("", s)) or s.rstrip().endswith("?") for s in behind):
        return False  # conditions, and the question behind them
    stem = text.stem(parts)
    if not stem or (not stem.endswith((".", "?", "!")) and _orders(stem)):
        return False  # "Find (A) … (B) …": tasks
    told = stem.endswith((".", "!")) and not _orders(stem) and not WONDER.search(stem)
    short = sum(len(p.text) for p in parts) / len(parts) < 90
    return (parts[0].mark in ("A", "А", "F")) or (short and not told)


def multiple_choice(text: Text) -> str:
    parts = text.parts()
    if _are_options(parts, text) and not re.search(r"true or false|each of the", text.stem(parts).lower()):
        return f"options {parts[0].mark} to {parts[-1].mark}"
    bullets = list(re.finditer(r"(?:^|\n)\s*(?:[*•▪-]|\[ \])\s+[^\n]{1,120}", text.plain))
    if len(bullets) >= 3 and not text.plain[bullets[-1].end() :].strip():
        stem = text.plain[: bullets[0].start()].rstrip()
        if stem.endswith(("?", "is", "are", "equals", "=")) or WONDER.search(stem[-200:]):
            return "a list behind a question"
    return _said("multiple_choice", text.words)


def proof(text: Text) -> str:
    return _said("proof", text.words)


def open_ended(text: Text) -> str:
    return _said("open_ended", text.words)


def concept(text: Text) -> str:
    return _said("concept", text.words)


def multi_part(text: Text) -> str:
    parts = text.parts()
    if len(parts) >= 2 and parts[0].mark in "AaIi1АаF" and not _are_options(parts, text):
        behind = [s for s in SENTENCE.split(parts[-1].text)[1:] if s.strip()]
        stem = text.stem(parts)
        if sum(part.asks for part in parts) >= 2:
            return f"parts {parts[0].mark} to {parts[-1].mark}"
        orders, each = _orders(stem) or WONDER.search(stem), "each of the" in stem.lower()
        asked = each or (orders and not stem.endswith((".", "?")) and not CONDITIONS.search(stem))
        if asked and not any(ORDER.match(LEAD.sub("", s)) for s in behind):
            return f"tasks {parts[0].mark} to {parts[-1].mark}"
    yes = [sentence for sentence in text.sentences if sentence.endswith("?") and YES.match(sentence)]
    if (len(text.asks) >= 2 or len(yes) >= 2) and not multiple_choice(text):
        return "several questions"
    return "" if SUMMED.search(text.words) else _said("again", text.words)


def guessable(text: Text) -> str:
    if not text.sentences or multiple_choice(text):
        return ""
    for sentence in text.sentences:
        clauses = [sentence, *(sentence.split(",")[-1:] if GIVEN.match(sentence) else [])]
        yes = sentence.endswith("?") and any(YES.match(c.strip()) for c in clauses) and not _said("value", sentence)
        found = sentence[:80] if yes else _said("guessable", sentence)
        if found and '"' not in sentence and not any(_said("value", other) for other in text.asks if other is not sentence):
            which = re.match(r"(?i)(?:in )?(?:which|who)", found)
            if yes or which or not _said("value", sentence):
                return found
    return ""


def missing_figure(text: Text) -> str:
    if "[drawing]" in text.plain or DRAWN.search(text.raw[:LOOK]):
        return ""
    return _said("missing_figure", text.words)


def non_english(text: Text) -> str:
    words = [w for w in WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", text.words[:4000])) if w != "V"]
    other = sum(not w.isascii() and len(w) > 1 + (script(w[0]) == "GREEK") and script(w[0]) not in KNOWN for w in words)
    if any(script(c) in ("CJK", "HIRAGANA", "KATAKANA") for c in text.words[:4000]) or other > 0.3 * len(words):
        return "another script"
    english, foreign = _languages()
    ours = theirs = 0
    for sentence in text.sentences:
        spoken = [w for w in WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", sentence)) if w[1:].islower() and w != "V"]
        small = sum(w.islower() for w in spoken)
        known, strange = (sum(w.lower() in s for w in spoken) for s in (english, foreign))
        if (strange > known and strange >= 0.12 * len(spoken)) or (not known and small >= 4):
            theirs += len(spoken)
        elif known:
            ours += len(spoken)
    return "words of another language" if theirs and theirs > 0.4 * ours and (theirs >= 3 or not ours) else ""


def too_long(text: Text) -> str:
    count = len(text.raw.split())
    return f"{count} words" if count > LONG else ""


RULES = (multiple_choice, proof, multi_part, open_ended, concept, missing_figure, non_english, guessable, too_long)
FAMILIES: dict[str, Callable[[Text], str]] = {rule.__name__: rule for rule in RULES}


def kinds(question: str) -> Iterator[tuple[str, str]]:
    """The families a question belongs to, each with the words that show it.

    >>> dict(kinds("Prove that the sum of two odd numbers is even."))
    {'proof': 'Prove'}
    """
    text = Text(question)
    for name, rule in FAMILIES.items():
        if found := rule(text):
            yield name, found
