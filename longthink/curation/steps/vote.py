"""Vote: a model reads the answer out of a solution, several times."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from longthink.curation.asking import AskingStep, Reply
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Work
from longthink.curation.steps.judge import filled
from longthink.curation.text import plain, tokens
from longthink.maths.extract import last_box

__all__ = ["READ", "Vote"]

READ = """Below are a question and its solution. Read the final answer out of the solution; do not solve the question yourself.

Question:
{question}

Solution:
{solution}

Give the final answer alone, in LaTeX where it is a formula, as \\boxed{answer}. If the solution has no final answer, give
\\boxed{none}."""


class Vote(AskingStep):
    r"""Sets a row's answer from what a model reads out of its solution in the last `\boxed{…}` of each of several votes.

    Votes are the same where their texts are, whatever the typography. With `disagree = "alternatives"` all different answers are
    kept, the most frequent first, and any of them counts as right; with `"reject"` rows stay only if at least `share` of the
    votes say the same. Source: DeepScaleR 3.1 and its code, gemini-1.5-pro-002, three votes, different answers all kept.

    Example: `[[step]]` with `kind = "vote"`, `from = "extract.rejected"`, `model = { path = "http://127.0.0.1:8000/v1" }`.
    """

    ask: str = READ
    votes: int = Field(3, ge=1)
    disagree: Literal["alternatives", "reject"] = "alternatives"
    share: float = Field(0.6, gt=0, le=1)

    def run(self, work: Work) -> None:
        self.ask_each(work, lambda row: [{"role": "user", "content": filled(self.ask, row)}], self.votes, self._decided)

    def _decided(self, rows: Sequence[Row], replies: Sequence[Sequence[Reply]]) -> list[Row | Rejected]:
        return [self._one(row, own) for row, own in zip(rows, replies, strict=True)]

    def _one(self, row: Row, replies: Sequence[Reply]) -> Row | Rejected:
        read = [(last_box(reply.text) or "").strip() for reply in replies]
        said = [answer for answer in read if answer and answer.lower() != "none"]
        if not said:
            return Rejected(row, "no_answer", {"replies": [reply.text[-200:] for reply in replies]})
        counts = Counter(plain(tokens(answer)) for answer in said)
        first = {plain(tokens(answer)): answer for answer in reversed(said)}
        ranked = [first[name] for name, _ in counts.most_common()]
        agree = counts.most_common(1)[0][1] / len(replies)
        detail = {"votes": read, "agree": agree}
        if self.disagree == "reject" and agree < self.share:
            return Rejected(row, "votes_differ", detail)
        alternatives = ranked if self.disagree == "alternatives" and len(ranked) > 1 else ranked[0]
        return replace(row, answer=alternatives).found(self.title, detail)
