"""Judge: a model says what kind of question it is, or how hard, by several votes."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from longthink.curation.asking import AskingStep, Reply
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Work

__all__ = ["KINDS", "Judge"]

VERDICT = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
KINDS = """Below is a question that may be used to train a model. A program will compare answers with one reference answer.

Say which of these it is:
1: a question with one clear final answer that can be checked
2: a proof, a derivation or a verification is asked for
3: several questions in one
4: no single answer can be checked: it asks to explain, to discuss, to design, or for an example
5: options are offered to choose from, or the answer can be guessed: yes or no, true or false
6: something it needs is missing: a figure, a table, an earlier part
7: it is no question of mathematics or science

Question:
{question}

Think briefly, then end with the number in double brackets, such as [[1]]."""


class Judge(AskingStep):
    """Asks a model about each question and keeps rows by its verdicts, numbers in double brackets.

    Votes without one do not count. `any`: a row stays if one vote is among `keep`; `majority`: if more than half are; `mean`: if
    the mean lies from `least` to `most`. Votes and mean go with the row. `ask` is the text it is asked, with {question}, {answer}
    and {solution} in it. Source: DeepScaleR's code, four votes at temperature 0.8 of which one [[1]] is enough, and a difficulty
    that is the mean of eight grades from 1 to 10 at 0.7; Open-RS 2.1, where a 7B model takes out what is noisy or has parts.

    Example: `[[step]]` with `kind = "judge"`, `model = { path = "http://127.0.0.1:8000/v1", temperature = 0.8 }`, `votes = 4`.
    """

    ask: str = KINDS
    votes: int = Field(4, ge=1)
    by: Literal["any", "majority", "mean"] = "any"
    keep: tuple[float, ...] = (1.0,)
    least: float = 0.0
    most: float = 10.0

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if "{question}" not in self.ask:
            raise ValueError("ask has no {question} in it")
        return self

    def run(self, work: Work) -> None:
        self.ask_each(work, lambda row: [{"role": "user", "content": filled(self.ask, row)}], self.votes, self._decided)

    def _decided(self, rows: Sequence[Row], replies: Sequence[Sequence[Reply]]) -> list[Row | Rejected]:
        return [self._one(row, own) for row, own in zip(rows, replies, strict=True)]

    def _one(self, row: Row, replies: Sequence[Reply]) -> Row | Rejected:
        said = [float(marks[-1]) for reply in replies if (marks := VERDICT.findall(reply.text))]
        if not said:
            return Rejected(row, "no_verdict", {"replies": [reply.text[-200:] for reply in replies]})
        mean, liked = sum(said) / len(said), sum(vote in self.keep for vote in said)
        found = row.found(self.title, {"votes": said, "mean": mean})
        if self.by == "mean":
            return found if self.least <= mean <= self.most else Rejected(found, "outside", {"mean": mean})
        if liked > (len(said) / 2 if self.by == "majority" else 0):
            return found
        return Rejected(found, f"judged_{Counter(said).most_common(1)[0][0]:g}", {"votes": said})


def filled(text: str, row: Row) -> str:
    """The text with the row's own in place of {question}, {answer} and {solution}; other braces stay as they are."""
    own = {"{question}": row.question, "{answer}": str(row.answer), "{solution}": row.solution}
    return re.sub(r"\{(?:question|answer|solution)\}", lambda m: own[m[0]], text)
