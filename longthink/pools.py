"""Difficulty pools: which problems are drawn, by their own pass rates; those always or never solved rest for a while."""

from collections.abc import Mapping, Sequence
from typing import Any

from longthink.rng import rng
from longthink.tables import PoolSettings

__all__ = ["Pools"]


class Pools:
    """The pass rates of the problems drawn so far, by name, and who rests until which step.

    A problem's pools are `new` (never drawn), `hard`, `middle` and `easy`, by the mean of its last `memory` pass rates. When its
    turn comes, a problem is taken with a probability of its pool's weight over the largest weight, drawn from (seed, turn);
    else it waits for the next round of the data. After `retire_right` draws in a row with every rollout right, or
    `retire_wrong` with none, it rests for `rest_steps` steps.
    """

    def __init__(self, settings: PoolSettings, seed: int) -> None:
        self.settings, self._seed = settings, seed
        self._rates: dict[str, list[float]] = {}
        self._rests: dict[str, int] = {}

    def pool(self, problem: str) -> str:
        """The pool a problem is in."""
        rates = self._rates.get(problem, [])[-self.settings.memory :]
        if not rates:
            return "new"
        mean = sum(rates) / len(rates)
        return "hard" if mean < self.settings.hard_below else "easy" if mean > self.settings.easy_above else "middle"

    def takes(self, problem: str, turn: int, step: int) -> bool:
        """Whether the problem whose turn it is, the `turn`-th of its domain, is drawn in this step."""
        if self._rests.get(problem, 0) > step:
            return False
        weights = {name: float(getattr(self.settings, name)) for name in ("new", "hard", "middle", "easy")}
        share = weights[self.pool(problem)] / max(weights.values())
        return share >= 1.0 or float(rng(self._seed, "pool", problem, turn).random()) < share

    def record(self, problem: str, scores: Sequence[float], step: int) -> None:
        """Take in the scores of a problem's rollouts in this step."""
        s = self.settings
        rates = self._rates.setdefault(problem, [])
        rates.append(sum(scores) / len(scores))
        del rates[: -max(s.memory, s.retire_right, s.retire_wrong)]
        right = s.retire_right and rates[-s.retire_right :] == [1.0] * s.retire_right
        wrong = s.retire_wrong and rates[-s.retire_wrong :] == [0.0] * s.retire_wrong
        if right or wrong:
            self._rests[problem] = step + s.rest_steps + 1

    def wake(self) -> None:
        """End every rest."""
        self._rests.clear()

    def counts(self, step: int) -> dict[str, float]:
        """Metrics: the problems in each pool that were drawn before, and those that rest after this step."""
        pools = [self.pool(problem) for problem in self._rates]
        resting = float(sum(until > step + 1 for until in self._rests.values()))
        return {f"pool/{name}": float(pools.count(name)) for name in ("hard", "middle", "easy")} | {"pool/resting": resting}

    def state(self, step: int) -> dict[str, Any]:
        """What is to be saved after this step; rests are counted from it."""
        return {"rates": self._rates, "rests": {k: until - step for k, until in sorted(self._rests.items()) if until > step}}

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Take in a saved state as that after this step."""
        self._rates = {k: list(v) for k, v in state["rates"].items()}
        self._rests = {k: left + step for k, left in state["rests"].items()}
