"""Difficulty: how often a model is right, with an interval, and the band that stays."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from longthink.curation.asking import GradingStep, Reply, judged
from longthink.curation.rows import Rejected, Row
from longthink.evaluation.votes import classes
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool
from longthink.stats import score_interval
from longthink.types import Verdict

__all__ = ["Difficulty"]


class Difficulty(GradingStep):
    """Asks a model each question `samples` times, and keeps rows whose pass rate lies from `least` to `most`.

    The pass rate is the mean score; a response that the window cuts scores 0, one without a verdict is not counted. The interval
    (95 %, Wilson's with Student's t over the samples) says where the rate would lie with ever more samples. `zeros` and `ones`
    say whether rows stay that were never, or always, solved. Every sample is kept and used again. The most frequent answer goes
    with the row, for `audit`. Source: Open-RS 2.1 drops what a model always solves (one sample at temperature 0.7 and top-p 0.9,
    4,096 tokens); STILL-3 what it never does, and above a threshold; DeepScaleR's `difficulty` column is an LLM's grade: `judge`.

    Example: `[[step]]` with `kind = "difficulty"`, `model = { path = "models/Qwen2.5-Math-7B-Instruct" }`, `ones = false`.
    """

    rate: ClassVar[str] = "pass_rate"

    samples: int = Field(8, ge=1)
    prompt: str = Field("deepscaler", description="a prompt of longthink/prompts.py by name")
    least: float = Field(0.0, ge=0, le=1)
    most: float = Field(1.0, ge=0, le=1)
    zeros: bool = True
    ones: bool = True

    def decided(self, pool: RewardPool, rows: Sequence[Row], replies: Sequence[Sequence[Reply]]) -> list[Row | Rejected]:
        reward = load_part(Reward, self.reward)
        verdicts = judged(rows, replies, pool)
        scored = [[v for v in own if v.score is not None] for own in verdicts]
        votes = classes({at: [(v.extracted, v.score or 0.0) for v in own] for at, own in enumerate(scored)}, reward, pool)
        tokens = [sum(r.tokens for r in own) / len(own) if own else 0.0 for own in replies]
        return [self._one(row, scored[at], votes[at], tokens[at]) for at, row in enumerate(rows)]

    def _one(self, row: Row, scored: Sequence[Verdict], votes: Sequence[int | None], tokens: float) -> Row | Rejected:
        if not scored:
            return Rejected(row, "no_verdict")
        mean, low, high = score_interval([[v.score or 0.0 for v in scored]], over="samples")
        facts: dict[str, Any] = {self.rate: mean, "low": low, "high": high, "samples": len(scored), "tokens": tokens}
        cast = Counter(vote for vote in votes if vote is not None)
        if cast:
            vote, count = cast.most_common(1)[0]
            at = next(i for i, v in enumerate(votes) if v == vote)
            facts["majority"] = {"answer": scored[at].extracted, "votes": count, "right": scored[at].score == 1.0}
        found = row.found(self.title, facts)
        if mean == 0.0 and not self.zeros:
            return Rejected(found, "never_right")
        if mean == 1.0 and not self.ones:
            return Rejected(found, "always_right")
        return found if self.least <= mean <= self.most else Rejected(found, "too_hard" if mean < self.least else "too_easy")
