"""Content: questions whose answer a program cannot compare, by rules."""

from pydantic import Field, field_validator

from longthink.curation.content import FAMILIES, kinds
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import RowStep
from longthink.errors import nearest

__all__ = ["Content"]


class Content(RowStep):
    """Drops questions of some families: multiple choice, proofs, several questions in one, and the others of docs/curation.md.

    Each rule looks for wording and writes the words it found beside the row, also of families that are not dropped; a `judge`
    behind it can ask a model about what stays. The reason is the first family of `drop` that the question belongs to. Source:
    Open-RS 2.1 (noisy and multi-part questions), DeepScaleR's code (proofs), STILL-3 2 and NVIDIA 2 (only checkable answers).

    Example: `[[step]]` with `kind = "content"`, `drop = ["proof", "multi_part", "missing_figure"]`.
    """

    drop: tuple[str, ...] = Field(tuple(FAMILIES), min_length=1)

    @field_validator("drop")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in FAMILIES]:
            raise ValueError(f"{unknown[0]!r} is no family; {nearest(unknown[0], list(FAMILIES))}")
        return names

    def decide(self, row: Row) -> Row | Rejected:
        found = dict(kinds(row.question))
        told = row.found(self.title, found) if found else row
        reason = next((name for name in self.drop if name in found), None)
        return told if reason is None else Rejected(told, reason, found)
