"""Instructions: something to write, and how it has to look, in IFEval's 25 kinds of instruction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from longthink.errors import TaskError
from longthink.ifeval import OPTIONS
from longthink.rng import rng
from longthink.tasks.base import Task
from longthink.types import Problem

__all__ = ["Instructions"]

Draw = np.random.Generator
SPLITS = {0: "validation", 1: "test"}  # by the last digit of a text's hash; all others are for training
TOPICS = (
    *("a lighthouse keeper", "the water cycle", "a lost umbrella", "training for a first marathon", "the history of chess"),
    *("a robot that learns to cook", "how bees make honey", "moving to a new city", "the invention of paper", "night trains"),
    *("a garden on a roof", "learning to play the violin", "the moons of Jupiter", "a market in the rain", "saving electricity"),
    *("a library without books", "the first day at a new job", "why the sky is blue", "a ferry that runs late", "baking bread"),
    *("an old bridge", "how vaccines work", "a dog afraid of thunder", "the rules of a board game", "walking in the mountains"),
)
FORMS = (
    *("Write a short story about {topic}.", "Explain {topic} to a child.", "Write a letter to a friend about {topic}."),
    *(
        "Write a blog post about {topic}.",
        "Write a product description inspired by {topic}.",
        "Write an interview about {topic}.",
    ),
    *("Give a talk about {topic} and write it down.", "Write a newspaper report about {topic}.", "Write a song about {topic}."),
)
KEYWORDS = ("river", "window", "seven", "quiet", "copper", "market", "paper", "morning", "bridge", "simple", "question", "orange")
FORBIDDEN = ("very", "because", "people", "really", "thing", "good", "always", "never", "maybe", "just")
LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese", "nl": "Dutch"}


class Made(NamedTuple):
    """An instruction: what the prompt says of it and what its check is called with."""

    text: str
    kwargs: dict[str, Any]


def _one(draw: Draw, values: tuple[str, ...]) -> str:
    return values[int(draw.integers(len(values)))]


def _some(draw: Draw, values: tuple[str, ...], count: int) -> list[str]:
    return [values[int(i)] for i in draw.choice(len(values), count, replace=False)]


def _bounded(draw: Draw, low: int, high: int, step: int = 1) -> tuple[int, str, str]:
    """A number, the relation, and both in words."""
    number = step * int(draw.integers(low, high + 1))
    relation = "at least" if draw.random() < 0.5 else "less than"
    return number, relation, f"{relation} {number}"


def _words(draw: Draw) -> Made:
    n, relation, said = _bounded(draw, 6, 16, 25)
    return Made(f"Answer with {said} words.", {"num_words": n, "relation": relation})


def _sentences(draw: Draw) -> Made:
    n, relation, said = _bounded(draw, 6, 14)
    return Made(f"Your answer should have {said} sentences.", {"num_sentences": n, "relation": relation})


def _frequency(draw: Draw) -> Made:
    word, (n, relation, said) = _one(draw, KEYWORDS), _bounded(draw, 2, 5)
    return Made(f'The word "{word}" should appear {said} times.', {"keyword": word, "frequency": n, "relation": relation})


def _letters(draw: Draw) -> Made:
    letter, (n, relation, said) = _one(draw, tuple("bcfgkmpuvwy")), _bounded(draw, 5, 20)
    return Made(
        f'The letter "{letter}" should appear {said} times.', {"letter": letter, "let_frequency": n, "let_relation": relation}
    )


def _capitals(draw: Draw) -> Made:
    n, relation, said = _bounded(draw, 2, 10)
    return Made(f"Use words in all capital letters {said} times.", {"capital_frequency": n, "capital_relation": relation})


def _exist(draw: Draw) -> Made:
    words = _some(draw, KEYWORDS, 2)
    return Made(f"Include the words {words[0]} and {words[1]}.", {"keywords": words})


def _forbidden(draw: Draw) -> Made:
    words = _some(draw, FORBIDDEN, 2)
    return Made(f"Do not use the words {words[0]} or {words[1]}.", {"forbidden_words": words})


def _paragraphs(draw: Draw) -> Made:
    n = int(draw.integers(2, 6))
    return Made(f"Write exactly {n} paragraphs, with the markdown divider *** between them.", {"num_paragraphs": n})


def _nth(draw: Draw) -> Made:
    n, word = int(draw.integers(2, 5)), _one(draw, KEYWORDS)
    at = int(draw.integers(1, n + 1))
    text = (
        f"Write {n} paragraphs, with a blank line and nothing else between them. Paragraph {at} must begin with the word {word}."
    )
    return Made(text, {"num_paragraphs": n, "nth_paragraph": at, "first_word": word})


def _sections(draw: Draw) -> Made:
    n, word = int(draw.integers(2, 6)), _one(draw, ("SECTION", "PART", "Chapter"))
    text = f"Your answer must have {n} sections. Mark the beginning of each with {word} and its number, such as {word} 1."
    return Made(text, {"section_spliter": word, "num_sections": n})


def _counted(kwarg: str, text: str, low: int, high: int) -> Callable[[Draw], Made]:
    def made(draw: Draw) -> Made:
        n = int(draw.integers(low, high + 1))
        return Made(text.format(n=n), {kwarg: n})

    return made


def _fixed(text: str) -> Callable[[Draw], Made]:
    return lambda draw: Made(text, {})


def _language(draw: Draw) -> Made:
    code = _one(draw, tuple(LANGUAGES))
    return Made(f"Your whole answer must be in {LANGUAGES[code]}; no other language is allowed.", {"language": code})


def _postscript(draw: Draw) -> Made:
    mark = _one(draw, ("P.S.", "P.P.S"))
    return Made(f"At the end add a postscript that begins with {mark}", {"postscript_marker": mark})


def _end(draw: Draw) -> Made:
    phrase = _one(draw, ("That is all there is to say.", "And so it goes on.", "Is there anything else?"))
    return Made(f'End your answer with exactly this sentence and nothing behind it: "{phrase}"', {"end_phrase": phrase})


# Of each group a prompt has at most one, so that no two contradict each other.
GROUPS: tuple[dict[str, Callable[[Draw], Made]], ...] = (
    {"length_constraints:number_words": _words, "length_constraints:number_sentences": _sentences},
    {"keywords:existence": _exist, "keywords:frequency": _frequency, "keywords:letter_frequency": _letters},
    {"keywords:forbidden_words": _forbidden, "punctuation:no_comma": _fixed("Do not use any commas.")},
    {
        "change_case:capital_word_frequency": _capitals,
        "change_case:english_capital": _fixed("Write in English and in capital letters only."),
        "change_case:english_lowercase": _fixed(
            "Write in English and in lowercase letters only; no capital letters are allowed."
        ),
        "detectable_format:multiple_sections": _sections,  # its word stands in small or capital letters
    },
    {
        "length_constraints:number_paragraphs": _paragraphs,
        "length_constraints:nth_paragraph_first_word": _nth,
        "detectable_format:number_bullet_lists": _counted(
            "num_bullets", "Your answer must have exactly {n} bullet points, written in markdown such as: * A point.", 2, 6
        ),
        "detectable_format:number_highlighted_sections": _counted(
            "num_highlights", "Highlight at least {n} parts of your answer in markdown, such as *a highlighted part*.", 1, 4
        ),
        "detectable_content:number_placeholders": _counted(
            "num_placeholders", "Your answer must have at least {n} placeholders in square brackets, such as [name].", 1, 5
        ),
    },
    {
        "detectable_content:postscript": _postscript,
        "startend:end_checker": _end,
        "startend:quotation": _fixed("Put your whole answer into double quotation marks."),
        "detectable_format:title": _fixed("Give it a title in double angular brackets, such as <<a title>>."),
    },
)
# These go with no other.
ALONE: dict[str, Callable[[Draw], Made]] = {
    "language:response_language": _language,
    "detectable_format:json_format": _fixed("Your whole answer must be in JSON."),
    "combination:two_responses": _fixed("Give two different answers, with six stars ****** between them and nowhere else."),
    "detectable_format:constrained_response": _fixed(f"Answer with one of these alone: {', '.join(OPTIONS)}"),
}
REPEAT = "combination:repeat_prompt"


class Instructions(Task):
    """Prompts without end for the verifier `instructions`: a form, a topic, and one to `most` instructions.

    Of instructions that might contradict each other a prompt has one. Gold: IFEval's ids with their arguments. A text belongs to
    one split, by its hash. Source: NVIDIA 2, 10,000 IFEval-like prompts of Llama-Nemotron; these are ours, in IFEval's kinds.

    Example: `[task]` with `kind = "instructions"`, and `[reward]` with `kind = "instructions"`.
    """

    seed: int = 0
    most: int = Field(3, ge=1, le=len(GROUPS))

    def size(self, split: str) -> int | None:
        return None

    def problem(self, split: str, index: int) -> Problem:
        if split not in ("train", "validation", "test"):
            raise TaskError(f"instructions has no split {split!r}; expected train, validation or test")
        draw, text, chosen = rng(self.seed, "instructions", split, index), "", dict[str, dict[str, Any]]()
        while not text or SPLITS.get(int(rng(0, "instructions split", text).integers(10)), "train") != split:
            text, chosen = self._drawn(draw)
        gold = {"instruction_id_list": list(chosen), "kwargs": list(chosen.values())}
        return Problem(f"{split}:{index}", ({"role": "user", "content": text},), gold)

    def _drawn(self, draw: Draw) -> tuple[str, dict[str, dict[str, Any]]]:
        asked = _one(draw, FORMS).format(topic=_one(draw, TOPICS))
        kind = draw.random()
        if kind < 0.05:
            repeated = f"{asked} First repeat this request word for word without change, then answer it."
            return repeated, {REPEAT: {"prompt_to_repeat": repeated}}
        if kind < 0.2:
            name = _one(draw, tuple(ALONE))
            made = ALONE[name](draw)
            return f"{asked} {made.text}", {name: made.kwargs}
        count = int(draw.integers(1, self.most + 1))
        chosen: dict[str, dict[str, Any]] = {}
        for at in sorted(draw.choice(len(GROUPS), count, replace=False).tolist()):
            name = _one(draw, tuple(GROUPS[at]))
            made = GROUPS[at][name](draw)
            asked, chosen[name] = f"{asked} {made.text}", made.kwargs
        return asked, chosen
