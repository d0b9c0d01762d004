"""A run folder: recipe, metrics, rollouts, events and checkpoints, and how they are read back after a kill."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from longthink import checkpoint, storage
from longthink.collect import timed_verdicts
from longthink.errors import CheckpointError, RecipeError
from longthink.machine import cpu_name
from longthink.recipe import Recipe, parse_recipe
from longthink.types import RolloutId, Verdict

__all__ = ["Run", "recipe_text", "versions"]


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as TOML."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def versions() -> dict[str, str]:
    """What produced a run: package versions, Python, platform, processor, and the commit when run from a checkout."""
    found = {name: importlib.metadata.version(name) for name in ("longthink", "torch", "transformers", "numpy")}
    here = Path(__file__).resolve().parent
    try:
        git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = git.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    here_is = {"python": platform.python_version(), "platform": platform.platform(), "cpu": cpu_name()}
    return found | here_is | {"commit": commit}


class Run:
    """The files of one run and the rows read from them. Everything in it can be rebuilt from the folder."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        told = recipe.model_dump(mode="json", exclude_defaults=True)  # so that keys of later versions change nothing
        self.id = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.recorded: dict[int, dict[str, Any]] = {}
        self.step = 0
        self.policy_version = 0
        self.refused: list[str] = []

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, lineage: Mapping[str, Any]) -> "Run":
        """Begin a run in an empty or absent folder. Raises: CheckpointError when a run is already there."""
        cls.refuse_existing(folder)
        storage.make_folder(folder / "rollouts")
        storage.make_folder(folder / "checkpoints")
        cores = len(os.sched_getaffinity(0))
        facts = {"versions": versions(), "seed": recipe.seed, "lineage": dict(lineage), "cores": cores}
        storage.replace_file(folder / "run.json", json.dumps(facts, indent=2).encode())
        storage.replace_file(folder / "recipe.toml", recipe_text(recipe).encode())
        return cls(folder, recipe)

    @staticmethod
    def refuse_existing(folder: Path) -> None:
        """Raises: CheckpointError when a run is already in the folder."""
        if (folder / "recipe.toml").exists():
            raise CheckpointError(f"{folder}: a run is already there; go on with --resume, or choose another --out")

    def lineage(self) -> dict[str, Any]:
        """What the run branched from; empty for one that did not."""
        return dict(json.loads((self.folder / "run.json").read_text())["lineage"])

    @classmethod
    def open(cls, folder: Path, given: Recipe | None) -> "Run":
        """Read a run back. Raises: CheckpointError without one; RecipeError when `given` is another recipe."""
        path = folder / "recipe.toml"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no run to resume (no recipe.toml); start it without --resume")
        stored = parse_recipe(tomllib.loads(path.read_text()), str(path))
        if given is not None:
            changed = _differences(stored.model_dump(mode="json"), given.model_dump(mode="json"))
            if changed:
                raise RecipeError(
                    f"{folder}: the recipe changed since this run began: {'; '.join(changed)}. Resume with the run's recipe, "
                    f"or branch: longthink train RECIPE --from {folder} --out OTHER"
                )
        return cls(folder, stored)

    def rewind(self) -> Path | None:
        """Go back to the newest sound checkpoint: cut later metrics, keep later events to be replayed.

        Returns the checkpoint's folder, or None when the run died before its first.
        """
        found = checkpoint.latest(self.folder, self.id)
        self.refused = found[2] if found else []
        self.events = storage.read_lines(self.folder / "events.jsonl")
        storage.cut_lines(self.folder / "events.jsonl", self.events)
        if found is None:
            kept: list[dict[str, Any]] = []
            self.step = -1
        else:
            self.step, self.policy_version = int(found[1]["step"]), int(found[1]["policy_version"])
            kept = [r for r in storage.read_lines(self.folder / "metrics.jsonl") if r["step"] <= self.step]
        self.rows = kept
        storage.cut_lines(self.folder / "metrics.jsonl", kept)
        self.recorded = {e["step"]: e for e in self.events if e["step"] > self.step}
        self.events = [e for e in self.events if e["step"] <= self.step]
        return found[0] if found else None

    def journal(self, step: int, use: str = "") -> dict[RolloutId, tuple[str, Verdict]]:
        """The time-dependent verdicts a killed run had already written for this step (`use`: as in `write_rollouts`)."""
        return timed_verdicts(self.rollouts(step, use))

    def rollouts(self, step: int, use: str = "") -> list[dict[str, Any]]:
        """A step's journalled rollouts."""
        return storage.read_lines(self._rollouts(step, use))

    def _rollouts(self, step: int, use: str) -> Path:
        return self.folder / "rollouts" / f"step_{step:06d}{'.' * bool(use)}{use}.jsonl"

    def calls(self, step: int, use: str = "") -> Path:
        """Where a step's calls of the tool are written down."""
        return self.folder / "tool_calls" / self._rollouts(step, use).name

    def write_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]], use: str = "") -> None:
        """Journal a step's rollouts before anything follows from them; `use` is "validation" for those."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        storage.replace_file(self._rollouts(step, use), data.encode("utf-8", "surrogatepass"))

    def append_row(self, row: dict[str, Any]) -> None:
        storage.append_lines(self.folder / "metrics.jsonl", [row])
        self.rows.append(row)

    def append_event(self, event: dict[str, Any]) -> None:
        """Write a decision before it acts; one that was replayed is in the file already."""
        if self.recorded.pop(int(event["step"]), None) is None:
            storage.append_lines(self.folder / "events.jsonl", [event])
        self.events.append(event)

    def request(self) -> dict[str, Any] | None:
        """What was asked for by hand (hand.py) and is not yet an event, oldest first; None when there is nothing.

        While a resumed run repeats what it had decided, nothing new comes between.
        """
        if self.recorded:
            return None
        done = sum(e["kind"] == "hand" for e in self.events)
        asked = storage.read_lines(self.folder / "requests.jsonl")
        return dict(asked[done]) if len(asked) > done else None

    def best(self, stage: int) -> dict[str, Any] | None:
        """The row of the best validation in a stage."""
        return next(iter(self.finest(stage, 1)), None)

    def finest(self, stage: int, count: int) -> list[dict[str, Any]]:
        """The rows of the best validations in a stage, best first, the latest first among equals.

        Only those taken alike (`validation/key`) are compared with the stage's last. A step after which the run went back is no
        candidate: its checkpoint holds the weights it went back to.
        """
        rows = self.validated(stage)
        rows = [r for r in rows if r.get("validation/key") == rows[-1].get("validation/key")]
        return sorted(rows, key=lambda r: (r["validation/accuracy"], r["step"]), reverse=True)[:count]

    def validated(self, stage: int) -> list[dict[str, Any]]:
        """The rows of a stage with a validation of the weights that their checkpoint has."""
        left = {e["step"] for e in self.events if e["action"].get("from_step", e["step"]) != e["step"]}
        return [r for r in self.rows if "validation/accuracy" in r and r["stage"] == stage and r["step"] not in left]

    @property
    def complete(self) -> bool:
        """True once the budget is spent."""
        budget = self.recipe.budget
        spent = bool(budget.max_generated_tokens) and self.generated_tokens >= budget.max_generated_tokens
        stopped = any(e["action"].get("do") == "stop" for e in self.events if e["step"] <= self.step)
        return self.step >= budget.max_steps or spent or stopped or self._out_of_time()

    def _out_of_time(self) -> bool:
        """Whether another step, as long as the longest of the last ten, would go beyond the budget's hours or money."""
        budget = self.recipe.budget
        steps = [float(r.get("time/step_s", 0.0)) for r in self.rows]
        hours = (sum(steps) + max(steps[-10:], default=0.0)) / 3600
        gpu_hours = hours * max(1, self.recipe.cluster.learners + self.recipe.cluster.samplers)
        limits = ((hours, budget.max_hours), (gpu_hours, budget.max_gpu_hours), (gpu_hours * budget.price, budget.max_cost))
        return any(limit and used > limit for used, limit in limits)

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint's folder."""
        return checkpoint.checkpoint_path(self.folder, max(s for s in checkpoint.steps(self.folder) if s <= self.step))

    @property
    def generated_tokens(self) -> int:
        return int(self.rows[-1]["tokens/generated"]) if self.rows else 0


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Dotted keys that differ, with both values. Machine-resolved fields set to auto or 0 in the new recipe agree."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b, name = old.get(key), new.get(key), f"{at}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{name}.")
        elif a != b and not (name.startswith(("model.", "cluster.")) and b in ("auto", 0)):
            found.append(f"{name} was {a!r}, is {b!r}")
    return found
