"""The 25 checks of IFEval: what a text must be to follow one instruction, strictly, without a network.

Source: Zhou et al. 2023, https://arxiv.org/abs/2311.07911, and the verdicts of the authors' program (google-research,
instruction_following_eval), its quirks included. Differs: keywords, section words and postscript marks are plain text there
read as regular expressions (the 541 rows hold none that would match anything else); an argument that is missing or out of
range, and a letter that is none of a-z, are drawn at random there, while here the first two are an error and the third is
counted; deep JSON is not followed instead of an exception; sentences, see `split_sentences`.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, Literal

__all__ = ["CHECKS", "arguments", "detect_language", "num_capital_words", "split_sentences"]

Relation = Literal["less than", "at least"]
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def holds(number: int, relation: Relation, bound: int) -> bool:
    """At most one less for "less than": the bound itself is too many."""
    return number < bound if relation == "less than" else number >= bound


# -- words ------------------------------------------------------------------------------------------------------------


def keywords_exist(text: str, *, keywords: list[str]) -> bool:
    """Anywhere, also inside a longer word, in any case."""
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """Occurrences that do not overlap, also inside longer words, in any case."""
    found = re.finditer(re.escape(keyword.strip()), text, re.IGNORECASE)
    return holds(sum(1 for _ in found), relation, frequency)


def no_forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    """Whole words, in any case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    r"""A word is a run of `\w`: "don't" is two."""
    return holds(sum(1 for _ in re.finditer(r"\w+", text)), relation, num_words)


def number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    return holds(len(split_sentences(text)), relation, num_sentences)


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    return holds(num_capital_words(text), capital_relation, capital_frequency)


# -- language and case ------------------------------------------------------------------------------------------------


def response_language(text: str, *, language: str) -> bool:
    """A text whose language cannot be told is followed."""
    return detect_language(text) in (language, None)


def english_capital(text: str) -> bool:
    return text.isupper() and detect_language(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and detect_language(text) in ("en", None)


# -- paragraphs and other parts ---------------------------------------------------------------------------------------


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Parts between `***`; only the first and the last may be empty, and then do not count."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Parts between two line ends. Empty ones do not count, but are counted on the way to the n-th."""
    parts = text.split("\n\n")
    number = sum(1 for part in parts if part.strip())
    words = parts[nth_paragraph - 1].split(maxsplit=1) if nth_paragraph <= number else []
    if not words:
        return False
    start = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return number == num_paragraphs and "".join(letter.lower() for letter in start) == first_word.lower()


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    r"""The section word followed by a number, anywhere in a line.

    >>> multiple_sections("SECTION 1\nOne.\nSECTION 2\nTwo.", section_spliter="SECTION", num_sections=2)
    True
    """
    found = re.finditer(re.escape(section_spliter.strip()) + r"\s?\d+", text)
    return sum(1 for _ in found) >= num_sections


def two_responses(text: str) -> bool:
    """Two different texts with `******` between them; an empty text is allowed before the first and after the last."""
    parts = [part.strip() for part in text.split("******")]
    texts = [part for part in parts if part]
    return all(parts[1:-1]) and len(texts) == 2 and texts[0] != texts[1]


# -- what a text contains ---------------------------------------------------------------------------------------------


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """Square brackets that close in the line they open in; a pair may be empty."""
    closed = sum(1 for found in re.finditer(r"\[[^\]\n]*(\]?)", text) if found[1])
    return closed >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    """The mark anywhere, in any case; the two usual ones with or without a blank after each letter."""
    mark = postscript_marker.strip()
    return re.search(POSTSCRIPTS.get(mark, re.escape(mark.lower())), text.lower()) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Lines that open with one `*`, which takes the next line along where nothing follows it, and lines that open with `-`."""
    stars = re.finditer(r"^[^\S\n]*\*[^*].*$", text, re.MULTILINE)
    dashes = re.finditer(r"^[^\S\n]*-.*$", text, re.MULTILINE)
    return sum(1 for _ in stars) + sum(1 for _ in dashes) == num_bullets


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """Text within a line between `*` and `*`, and between `**` and `**`; blank ones do not count."""
    single = re.finditer(r"\*([^\n*]*)\*", text)
    double = re.finditer(r"\*\*([^\n*]*)\*\*", text)
    return sum(1 for found in (*single, *double) if found[1].strip()) >= num_highlights


def title(text: str) -> bool:
    """A line with something between its first `<<` and its last `>>`."""
    for line in text.split("\n"):
        start, stop = line.find("<<"), line.rfind(">>")
        if 0 <= start < stop - 2 and line[start:stop].lstrip("<").rstrip(">").strip():
            return True
    return False


def constrained_response(text: str) -> bool:
    """One of the three options, with anything before and after it."""
    return any(option in text for option in OPTIONS)


def json_format(text: str) -> bool:
    """JSON, in a fence or not."""
    text = text.strip()
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def no_comma(text: str) -> bool:
    return "," not in text


# -- beginning and end ------------------------------------------------------------------------------------------------


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """In any case; blanks, and then double quotation marks, around the text do not matter."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "combination:repeat_prompt": repeat_prompt,
    "combination:two_responses": two_responses,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:json_format": json_format,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:title": title,
    "keywords:existence": keywords_exist,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:frequency": keyword_frequency,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "punctuation:no_comma": no_comma,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
}
FITS: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: type(value) is int and value > 0,
    str: lambda value: isinstance(value, str),
    list[str]: lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    Relation: lambda value: value in ("less than", "at least"),
}


def arguments(instruction: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the check of an instruction is called with; empty values, 0 and None are as good as missing.

    Raises: ValueError for an unknown instruction, arguments that are not the check's own and values it cannot use.

    >>> arguments("length_constraints:number_words", {"num_words": 300, "relation": "at least", "keyword": None})
    {'num_words': 300, 'relation': 'at least'}
    """
    if instruction not in CHECKS:
        raise ValueError(f"unknown instruction {instruction!r}")
    given = {name: value for name, value in kwargs.items() if value}
    expected = _parameters(instruction)
    if given.keys() != expected.keys():
        raise ValueError(f"{instruction} takes {sorted(expected)}, got {sorted(given)}")
    for name, value in given.items():
        if not FITS[expected[name]](value) or (name == "letter" and len(value) != 1):
            raise ValueError(f"{instruction}: {name} cannot be {value!r}")
    if given.get("nth_paragraph", 0) > given.get("num_paragraphs", 0) > 0:
        raise ValueError(f"{instruction}: there is no paragraph {given['nth_paragraph']} of {given['num_paragraphs']}")
    return given


@lru_cache
def _parameters(instruction: str) -> dict[str, Any]:
    found = inspect.signature(CHECKS[instruction]).parameters.values()
    return {parameter.name: parameter.annotation for parameter in found if parameter.kind is parameter.KEYWORD_ONLY}


def detect_language(text: str) -> str | None:
    """The code langdetect gives the language of a text, the same each time; None where it finds nothing to go by."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0
    try:
        return str(detect(text))
    except LangDetectException:
        return None


# -- sentences --------------------------------------------------------------------------------------------------------

QUOTES = "'\u2018\u2019\u201c\u201d«»"
ENDS_WORD = re.escape(')";}]*:@({[?!') + QUOTES
STOP_INSIDE = re.compile(rf"\S*[.?!](?=[{ENDS_WORD}])")
STOP_AT_END = re.compile(rf"\S*[.?!](?=[{ENDS_WORD}]|\Z)")
LAST_WORD = re.compile(rf"[?!{QUOTES}]?[^{ENDS_WORD}]*\.\Z")
CLOSERS = re.compile(rf"([\")\]}}{QUOTES}]+)(?:\s+|(?=--)|\Z)")
GOES_ON = ";:,.?!"
MAX_WORD = 40
NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])+|ph\.d|w\.va")
FIRST_WORD = re.compile(r"[^\W\d_]++(?!\.)")
BOUND_LETTERS = frozenset("cdefghklmnprstvw")
ABBREVIATIONS = re.compile(
    "mr|mrs|ms|dr|prof|st|sr|jr|messrs|gen|col|maj|lt|capt|sgt|adm|gov|sen|inc|ltd|co|corp|bros|cie|ave|mt|vs|"
    "jan|feb|aug|sep|sept|oct|nov|dec|tues|thurs|fri|"
    "ala|ariz|calif|colo|conn|fla|kan|ky|mich|minn|nev|okla|tenn|va|vt|wis"
)
STARTERS = re.compile(
    "the|an|this|that|these|those|he|she|it|we|they|you|i|his|her|its|our|their|my|your|there|here|what|who|when|where|why|"
    "how|which|if|in|on|at|as|for|from|with|by|to|of|after|before|since|while|although|though|because|despite|under|among|"
    "according|but|and|or|nor|so|yet|however|moreover|nevertheless|nonetheless|indeed|instead|meanwhile|similarly|then|thus|"
    "therefore|also|even|some|many|most|all|each|every|both|not|one|once|now|please|let"
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text as NLTK's Punkt with its English model has them.

    A sentence ends with `.`, `?` or `!` before a blank, a quotation mark, a bracket or a star; a heading without them belongs
    to the sentence that follows, `1.` before a capital letter is a sentence and so are stars or marks left over at the end.
    Differs: Punkt has learned from newspapers which words are abbreviations and which are ever written small. Here are a list
    of common abbreviations, any word of the form `u.s.` but `p.s.`, and a list of words that begin sentences. So `e.g.` and
    `i.e.` end no sentence here, and a rare abbreviation, or a rare word after an abbreviation, an initial or an ellipsis, can
    be told differently.

    >>> split_sentences('Dr. J. Smith paid $3.50 in the U.S. "Why?" He left... Well. 1. Go')
    ['Dr. J. Smith paid $3.50 in the U.S. "Why?"', 'He left... Well.', '1.', 'Go']
    """
    text = text.rstrip()
    start, found = 0, []
    for stop, following in _breaks(text):
        found.append(text[start:stop])
        start = following
    return [*found, text[start:]] if start < len(text) else found


def _breaks(text: str) -> Iterator[tuple[int, int]]:
    """Where a sentence stops and where the next one starts."""
    for chunk, following in pairwise(chain(re.finditer(r"\S+", text), [None])):
        assert chunk is not None
        mark = (STOP_AT_END if following else STOP_INSIDE).match(chunk[0])
        if mark is None:
            continue
        stop = start = chunk.start() + mark.end()
        after = text[stop] if stop < chunk.end() else ""
        if following is not None and not after:
            start, after = following.start(), following[0]
        if ends_sentence(mark[0], after):
            closers = CLOSERS.match(text, start)
            yield (closers.end(1), closers.end()) if closers else (stop, start)


def ends_sentence(before: str, after: str) -> bool:
    """Whether the mark that closes `before` ends a sentence; `after` is what follows it: a mark or the next word."""
    if before[-1] != ".":
        return True
    begins = FIRST_WORD.match(after)
    starter = after[0].isupper() and begins is not None and STARTERS.fullmatch(begins[0].lower()) is not None
    if before.endswith(".."):
        return starter
    match = LAST_WORD.search(before[-MAX_WORD:])
    word = re.split(r"--+|\.\.+", match[0] if match else "")[-1].lstrip("`&#-,")[:-1].lower()
    if len(word) == 1 and word.isalpha():
        return word not in BOUND_LETTERS and (starter or not (after[0].isalpha() or after[0] in GOES_ON))
    if NUMBER.fullmatch(word):
        return not (after[0].islower() or after[0] in GOES_ON)
    if ABBREVIATIONS.fullmatch(word.rpartition("-")[2]) or (INITIALS.fullmatch(word) and word not in ("p.s", "p.p.s")):
        return starter
    return True


# -- words in capital letters -----------------------------------------------------------------------------------------

FINAL_PERIOD = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»\u201d\u2019 ]*\Z)")
BETWEEN_WORDS = re.compile(
    r"[;@#$%&?!*\[\](){}<>\"`«»\u2018\u2019\u201c\u201d\u201e\u2012-\u2015]|''|--|\.{2,}|[:,](?!\d)"
    r"|(?<!\w)'(?=\w)(?!(?i:re|ve|ll|[mtsdn])\b)"
)
QUOTE_AFTER = re.compile(r"(?<=[^'])'(?= )")
SHORT_CLITIC = re.compile(r"(?<=[^' ])'[sSmMdD]?(?= )")
LONG_CLITIC = re.compile(r"(?<=[^' ])(?:'(?:ll|LL|re|RE|ve|VE)|n't|N'T)(?= )")
TWO_WORDS = re.compile(r"\b(?:cannot|d'ye|gimme|gonna|gotta|lemme|more'n|wanna(?= ))\b", re.IGNORECASE)


def num_capital_words(text: str) -> int:
    """Words without a small letter and with a capital one, among the words of NLTK's word_tokenize.

    A hyphen joins, an apostrophe may not: "DON'T" and "CANNOT" are two words each, "NASA's" is one in capitals.

    >>> num_capital_words("I CANNOT do A-B or C,D; NASA's DON'T.")
    9
    """
    text = "\n".join(FINAL_PERIOD.sub(" .", sentence) for sentence in split_sentences(text))
    text = BETWEEN_WORDS.sub(lambda found: f" {found[0]} ", text)
    text = " ".join(["", *QUOTE_AFTER.sub(" '", text).split(), ""])
    text = LONG_CLITIC.sub(r" \g<0>", SHORT_CLITIC.sub(r" \g<0>", text))
    text = TWO_WORDS.sub(lambda found: _halves(found[0]), text)
    return sum(1 for word in text.split() if word.isupper())


def _halves(word: str) -> str:
    cut = word.find("'") if "'" in word else 3
    return f" {word[:cut]} {word[cut:]} "
