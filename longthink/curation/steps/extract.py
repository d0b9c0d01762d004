"""Extract: the answer from where it stands in a row."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import RowStep
from longthink.maths.extract import last_box
from longthink.reading import after_hashes

__all__ = ["Extract"]


class Extract(RowStep):
    r"""Sets a row's answer from the first of the `ways` that finds one, and drops rows where none does.

    column: the answer the source's columns had. boxed: the last `\boxed{…}` of the solution. hashes: what stands behind `####`
    at the solution's end, as in GSM8K. Source: Open-RS 2.1 keeps solutions with a box, `ways = ["boxed"]`.

    Example: `[[step]]` with `kind = "extract"`, `ways = ["boxed"]`.
    """

    ways: tuple[Literal["column", "boxed", "hashes"], ...] = Field(("column", "boxed", "hashes"), min_length=1)

    def decide(self, row: Row) -> Row | Rejected:
        for way in self.ways:
            answer = row.answer if way == "column" else self._found(way, row.solution)
            if answer is not None:
                return replace(row, answer=answer).found(self.title, {"way": way})
        return Rejected(row, "no_answer")

    @staticmethod
    def _found(way: str, solution: str) -> str | None:
        if way == "boxed":
            return (last_box(solution) or "").strip() or None
        return after_hashes(solution) or None
