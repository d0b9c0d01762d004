"""A recipe's reward: its parts, each a verifier that reads the text or arithmetic over a group, and how they add up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longthink.errors import RecipeError, nearest
from longthink.part import load_part
from longthink.recipe import Recipe
from longthink.rewards.base import Reward
from longthink.rewards.file import File
from longthink.shaping.base import Outcome, Shape
from longthink.types import Rollout, Verdict

__all__ = ["Parts", "pin_files"]


@dataclass(frozen=True)
class _Part:
    name: str
    weight: float
    gate: bool
    of: Shape | Reward


class Parts:
    """The parts of a reward, from the recipe's `[[shape]]` tables: kind, name (the kind unless given), weight, gate.

    reward = (sum of weight · value over the parts) · (product of the gates' values); a sum below 0 stays, or a closed gate would
    forgive a penalty. Without tables it is the verifier's score. Raises: RecipeError for a table that is no part.
    """

    def __init__(self, tables: Sequence[Mapping[str, Any]] = ()) -> None:
        self._parts = [_part(dict(table), f"shape.{i}") for i, table in enumerate(tables)]

    def __str__(self) -> str:
        added = " + ".join(f"{p.weight:g} · {p.name}" for p in self._parts if not p.gate)
        return " · ".join([f"({added})", *(p.name for p in self._parts if p.gate)]) if any(p.gate for p in self._parts) else added

    @property
    def names(self) -> list[str]:
        return [p.name for p in self._parts]

    @property
    def verifiers(self) -> dict[str, Reward]:
        """The parts that read the text: each grades every rollout, in the worker processes."""
        return {p.name: p.of for p in self._parts if isinstance(p.of, Reward)}

    def rewards(
        self, group: Sequence[tuple[Rollout, Verdict]], truncated_reward: float | None
    ) -> list[tuple[float, dict[str, float]]]:
        """Each rollout's reward and the values of its parts; `truncated_reward` is the whole reward of a truncated one.

        A part that reads the text has been graded: its value is in the verdict's `detail["parts"]`. A rollout without a score
        has a reward of 0.
        """
        if not group:
            return []
        outcomes = [_outcome(rollout, verdict) for rollout, verdict in group]
        values: dict[str, list[float]] = {}
        for p in self._parts:
            if isinstance(p.of, Shape):
                values[p.name] = p.of.values(outcomes)
            else:
                values[p.name] = [float(v.detail.get("parts", {}).get(p.name) or 0.0) for _, v in group]
        found = []
        for i, outcome in enumerate(outcomes):
            total = sum(p.weight * values[p.name][i] for p in self._parts if not p.gate) if self._parts else outcome.score
            reward = total * math.prod(values[p.name][i] for p in self._parts if p.gate) if total > 0 else total
            if truncated_reward is not None and outcome.truncated:
                reward = truncated_reward
            if group[i][1].score is None:
                reward = 0.0
            found.append((reward, {name: column[i] for name, column in values.items()}))
        return found


def _outcome(rollout: Rollout, verdict: Verdict) -> Outcome:
    known = (verdict.score or 0.0, rollout.num_tokens, len(rollout.text), rollout.window, rollout.truncated)
    calls = rollout.calls
    return Outcome(*known, len(calls), sum(call.status != "ok" for call in calls))


def _part(fields: dict[str, Any], where: str) -> _Part:
    kind = fields.get("kind")
    known = [*Shape.kinds(), *Reward.kinds()]
    if not isinstance(kind, str) or kind not in known:
        raise RecipeError(f"{where}: kind is {kind!r}; {nearest(str(kind), known)}")
    weighted = "weight" in fields
    name, weight, gate = fields.pop("name", kind), fields.pop("weight", 1.0), fields.pop("gate", False)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise RecipeError(f"{where}, kind {kind}: weight is {weight!r}, expected a number")
    if not isinstance(gate, bool) or not isinstance(name, str) or not name:
        raise RecipeError(f"{where}, kind {kind}: expected gate = true or false and a name, got gate {gate!r} and name {name!r}")
    if gate and weighted:
        raise RecipeError(f"{where}, kind {kind}: a gate multiplies and has no weight; remove one of them")
    of = load_part(Shape, fields, where) if kind in Shape.kinds() else load_part(Reward, fields, where)
    return _Part(name, float(weight), gate, of)


def pin_files(recipe: Recipe) -> Recipe:
    """The recipe with the hash of every reward file in it. Raises: RecipeError for a file that is not there or has changed."""

    def pinned(table: dict[str, Any]) -> dict[str, Any]:
        if table.get("kind") != "file":
            return table
        part = load_part(Reward, {k: v for k, v in table.items() if k not in ("name", "weight", "gate")})
        assert isinstance(part, File)
        return table | {"sha256": part.digest}

    domains = tuple(d.model_copy(update={"reward": pinned(d.reward)}) for d in recipe.domain)
    probe = recipe.probe.model_copy(update={"reward": pinned(recipe.probe.reward)})
    shape = tuple(map(pinned, recipe.shape))
    sets = tuple(s.model_copy(update={"reward": pinned(s.reward)}) for s in recipe.validation.sets)
    validation = recipe.validation.model_copy(update={"sets": sets})
    stages = tuple(s if s.shape is None else s.model_copy(update={"shape": tuple(map(pinned, s.shape))}) for s in recipe.stage)
    tables = {"reward": pinned(recipe.reward), "domain": domains, "probe": probe, "shape": shape, "stage": stages}
    tables["validation"] = validation
    return recipe.model_copy(update=tables)
