"""Audit: answers that models agree on, against the given one."""

from pydantic import Field

from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import RowStep

__all__ = ["Audit"]


class Audit(RowStep):
    """Marks rows whose given answer is suspect: most samples of an earlier `difficulty` or `agreement` say the same other thing.

    Suspect: at least `votes` samples have one answer, they are at least `share` of those with a verdict, and it is not theirs.
    With `drop` such rows are rejected as `suspect`, with that answer beside theirs; without, they stay and the card lists them.

    Example: `[[step]]` with `kind = "audit"`, `share = 0.75`.
    """

    share: float = Field(0.75, gt=0, le=1)
    votes: int = Field(3, ge=2)
    drop: bool = False

    def decide(self, row: Row) -> Row | Rejected:
        for step, facts in row.facts.items():
            said = facts.get("majority")
            if not said or said["right"] or said["votes"] < self.votes or said["votes"] < self.share * facts["samples"]:
                continue
            found = {"suspect": said["answer"], "votes": said["votes"], "samples": facts["samples"], "by": step}
            return Rejected(row, "suspect", found) if self.drop else row.found(self.title, found)
        return row
