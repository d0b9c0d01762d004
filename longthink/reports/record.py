"""What the files of a run folder hold, for the pages about it."""

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longthink import storage
from longthink.errors import CheckpointError

__all__ = ["Record", "distinct_names", "inner", "number", "read_record", "shown"]


@dataclass(frozen=True, slots=True)
class Record:
    """What the files of a run folder hold."""

    name: str
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    curve: dict[str, Any]
    twins: dict[int, dict[str, Any]]  # by the step of a decision: after it minus as if it had not been taken
    recipe: str

    @property
    def processes(self) -> int:
        """Learner ranks and samplers, as its recipe has them; 1 where it does not say."""
        try:
            cluster = tomllib.loads(self.recipe).get("cluster", {})
            return max(1, int(cluster.get("learners") or 1) + int(cluster.get("samplers") or 0))
        except (tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError):
            return 1

    def columns(self, *keys: str) -> NDArray[np.float64]:
        """[len(keys), rows]: the rows in which every one of the keys is a number."""
        rows = [[number(row.get(key)) for key in keys] for row in self.rows]
        return np.array([row for row in rows if None not in row], float).reshape(-1, len(keys)).T

    def stages(self) -> list[tuple[float, str]]:
        """First step and name of every stage."""
        found: list[tuple[float, str]] = []
        for row in self.rows:
            step, stage = number(row.get("step")), row.get("stage")
            if step is not None and stage is not None and (not found or found[-1][1] != str(stage)):
                found.append((step, str(stage)))
        return found

    def breaks(self) -> list[float]:
        """The first steps of stages, and of what follows where the run went back to a checkpoint."""
        back = [number(e.get("step")) for e in self.events if inner(e, "action").get("from_step", e.get("step")) != e.get("step")]
        return sorted({step for step, _ in self.stages()} | {step + 1 for step in back if step is not None})

    def other_events(self) -> list[float]:
        """The steps of events that start no stage."""
        others = (e for e in self.events if "stage" not in str(e.get("kind")) and "stage" not in inner(e, "action"))
        return sorted({step for e in others if (step := number(e.get("step"))) is not None})


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """What several folders are called: by their names, with as many folders above as tell all apart; the same one by number.

    >>> distinct_names([Path("/a/direct/seed_0"), Path("/a/staged/seed_0"), Path("/a/direct/seed_0")])
    ['direct/seed_0', 'staged/seed_0', 'direct/seed_0 #2']
    """
    parts = [path.resolve().parts for path in paths]
    most = max(map(len, parts), default=1)
    different = len(set(parts))
    depth = next((d for d in range(1, most) if len({p[-d:] for p in parts}) == different), most)
    names = ["/".join(p[-depth:]) for p in parts]
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name} #{n}" for i, name in enumerate(names)]


def read_record(run: Path) -> Record:
    """Raises: CheckpointError when the folder is no run or one of its files is not JSON."""
    if not any((run / name).is_file() for name in ("metrics.jsonl", "recipe.toml")):
        raise CheckpointError(f"{run}: not a run folder; expected metrics.jsonl or recipe.toml in it (give the folder of a run)")
    recipe = run / "recipe.toml"
    return Record(
        name=run.resolve().name,
        rows=storage.read_lines(run / "metrics.jsonl"),
        events=storage.read_lines(run / "events.jsonl"),
        summary=_read_object(run / "summary.json"),
        curve=_read_object(run / "window_curve.json"),
        twins=_twins(run / "twins.json"),
        recipe=recipe.read_text("utf-8", "replace") if recipe.is_file() else "",
    )


def _twins(path: Path) -> dict[int, dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else []
        return {int(twin["step"]): dict(twin.get("difference") or {"failed": True}) for twin in found}
    except (ValueError, TypeError, KeyError) as e:
        raise CheckpointError(f"{path}: not what `longthink twins` writes ({e}); write it again or remove it") from None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as e:
        raise CheckpointError(f"{path}: not JSON ({e}); write it again or remove it") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a JSON object; write it again or remove it")
    return value


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def inner(table: dict[str, Any], key: str) -> dict[str, Any]:
    """The table under a key, empty where there is none."""
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def shown(value: Any, pattern: str = "{:.1f}", factor: float = 1.0) -> str:
    """A number times a factor in a pattern, or "-"."""
    found = number(value)
    return "-" if found is None else pattern.format(factor * found)
