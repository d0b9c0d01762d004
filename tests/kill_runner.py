"""Runs tiny training jobs in forked children, some of which die at their k-th write, fsync or rename.

Reads one JSON line per request: the folder of a warm model, a folder for the runs, a key of RECIPES, a fault (none, kill,
torn, full) and a list of k. For every k the job runs in FOLDER/k until the fault, then again with resume until its end.
Answers each request with one JSON line: how both ended, for every k. What a job imports is imported once, before all forks.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from longthink import storage
from longthink.errors import LongthinkError
from longthink.recipe import Recipe, parse_recipe
from longthink.run import Run
from longthink.train import train

RECIPE: dict[str, Any] = {
    "name": "kill",
    "seed": 3,
    "task": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "seed": 1},
    "reward": {"kind": "countdown"},
    "workers": 1,
    "rollout": {"prompts": 4, "group_size": 4, "window": 24},
    "loss": {"kl": 0.01, "entropy": 0.001},
    "learner": {"lr": 1e-3, "minibatch_prompts": 2},
    "validation": {"every": 1, "problems": 2, "samples": 4},
    "checkpoint": {"every": 2, "keep": 2},
    "budget": {"max_steps": 4},
    "stage": [{"rollout": {"window": 24}, "max_steps": 2}, {"rollout": {"window": 48}, "begin_from": "best"}],
}


COUNTDOWN = {"kind": "countdown", "count": 2, "high": 6, "min_target": 2}
FEW = {"kind": "file", "train": "few.jsonl", "validation": "few.jsonl"}
# Every schedule at once: a cyclic window, an annealed KL, a reference replaced with the optimizer, an adaptive entropy bonus,
# refilled steps with carried prompts, pools over a file, a mixture, and parts of every kind.
SCHEDULES: dict[str, Any] = {
    **{k: RECIPE[k] for k in ("seed", "workers", "checkpoint")},
    "name": "schedules",
    "domain": [
        {"name": "few", "weight": 0.5, "task": FEW, "reward": {"kind": "countdown"}},
        {"name": "more", "weight": 0.5, "task": COUNTDOWN | {"seed": 1}, "reward": {"kind": "countdown"}},
    ],
    "shape": [
        {"kind": "accuracy", "weight": 2.0},
        {"kind": "cosine", "weight": 0.5},
        {"kind": "actions", "weight": 0.5},
        {"kind": "stop", "gate": True, "coefficient": 0.5},
    ],
    "rollout": {
        "prompts": 4,
        "group_size": 4,
        "truncated": "mask",
        "cycle": {"shape": "stair_cosine", "low": 24, "high": 48, "period": 8},
    },
    "selection": {"dynamic": "refill", "max_rounds": 2, "oversample": 2.0},
    "loss": {
        "kl": 0.02,
        "kl_schedule": "cosine",
        "kl_horizon": 9,
        "entropy": 0.001,
        "entropy_target": 4.0,
        "entropy_step": 0.001,
    },
    "learner": {"lr": 1e-3, "minibatch_prompts": 2, "schedule": "cosine", "warmup_updates": 2, "total_updates": 9},
    "reference": {"replace_every": 3, "optimizer": "reset"},
    "budget": {"max_steps": 5},
}
# STILL-3's objective: the KL in the reward, whitened; pairs; the learner's own old log-probs with a correction; pools.
STILL: dict[str, Any] = {
    **{k: SCHEDULES[k] for k in ("seed", "workers", "checkpoint", "budget")},
    "name": "still",
    "task": {"kind": "file", "train": "few.jsonl"},
    "reward": {"kind": "countdown"},
    "pools": {"retire_wrong": 1, "rest_steps": 1, "easy": 0.5},
    "rollout": {"prompts": 4, "group_size": 4, "window": 40, "truncated": "penalize"},
    "selection": {"dynamic": "shrink", "metric": "reward"},
    "advantage": {"whiten": True},
    "loss": {"kl": 0.05, "kl_in": "reward", "kl_estimator": "k1", "old_logprobs": "learner", "correction": "truncate"},
    "learner": {"lr": 1e-3, "minibatch_prompts": 2},
    "reference": {"replace_every": 2},
}
# Eight stages, two hard resets, a rollback, changes by rule, a domain that grows, checkpoints chosen among finalists by a blend
# of two sets, states kept for twins, and a last window that follows the signal; with nobody's hand on it. A learning rate of 1
# ruins step 4, so that the next stage surely begins from an earlier one.
OFTEN = {"kind": "mismatch", "above": 1e-12, "over": 1}
RULES: dict[str, Any] = {
    **{k: SCHEDULES[k] for k in ("seed", "workers", "domain")},
    "name": "rules",
    "checkpoint": SCHEDULES["checkpoint"] | {"twins": True},
    "rollout": {"prompts": 4, "group_size": 4},
    "loss": {"kl": 0.01},
    "learner": {"lr": 1e-3, "minibatch_prompts": 2},
    "validation": {
        **{"every": 1, "problems": 2, "samples": 4, "window": 32, "finalists": 2},
        "sets": [{"name": "own"}, {"name": "narrow", "window": 20, "weight": 0.5}],
    },
    "budget": {"max_steps": 21},
    "stage": [
        {
            "rollout": {"window": 20 + 2 * i} if i < 7 else {"signal": {"low": 16, "high": 36, "aim": "own"}},
            "max_steps": 2 if i else 4,
            **({"domain": {"few": {"weight": 2.0}}} if i == 4 else {}),
        }
        for i in range(8)
    ],
    "rule": [
        {"when": {"kind": "hold", "steps": 2, "of": OFTEN}, "do": "reset", "times": 2, "cooldown": 5},
        {"when": {"kind": "all", "of": [OFTEN]}, "do": "rollback", "set": {"rollout": {"temperature": 0.9}}},
        {"when": {"kind": "any", "of": [OFTEN]}, "do": "set", "scale": {"learner": {"lr": 0.5}}},
        {"when": OFTEN, "do": "set", "set": {"learner": {"lr": 1.0}}},
        {"when": OFTEN, "do": "next", "set": {"learner": {"lr": 1e-3}}},
    ],
}
# Calls of a tool inside rollouts: values, names that blocks share, exceptions, crashes and endless loops.
TOOLS: dict[str, Any] = {
    **{k: SCHEDULES[k] for k in ("seed", "workers", "checkpoint")},
    "name": "tools",
    "task": {"kind": "file", "train": "few.jsonl", "validation": "few.jsonl"},
    "reward": {"kind": "countdown", "think": "template"},
    "tool": {"format": "tags", "calls": 3, "call_s": 1.2, "patience_s": 0.9, "memory_mb": 512},
    "shape": [{"kind": "accuracy"}, {"kind": "calls", "used": 0.2, "failed": -0.1}],
    "rollout": {"prompts": 4, "group_size": 4, "window": 48},
    "loss": {"kl": 0.01},
    "learner": {"lr": 1e-3, "minibatch_prompts": 2},
    "validation": {"every": 2, "problems": 2, "samples": 4},
    "budget": {"max_steps": 3},
}
RECIPES = {"tools": TOOLS, "rules": RULES, "stages": RECIPE, "schedules": SCHEDULES, "still": STILL, "sharded": SCHEDULES}


def recipe(model: str, variant: str) -> Recipe:
    cluster = {"learners": 2, "threads": 1, "shard": True} if variant == "sharded" else {"learners": 1, "threads": 1}
    table = RECIPES[variant] | {"model": {"path": model, "dtype": "float32"}, "cluster": cluster}
    return parse_recipe(table, "kill")


class Faulty:
    """Stands in for `os` inside longthink.storage and strikes at the k-th call that matters."""

    def __init__(self, fault: str, k: int) -> None:
        self.fault, self.k, self.count = fault, k, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _strikes(self) -> bool:
        self.count += 1
        return self.count == self.k and self.fault != "none"

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(self, descriptor: int, data: Any) -> int:
        if self._strikes():
            if self.fault == "full":
                raise OSError(28, "No space left on device")
            if self.fault == "torn":
                os.write(descriptor, data[: max(1, len(data) // 2)])
            self._die()
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if self._strikes():
            if self.fault == "full":
                raise OSError(28, "No space left on device")
            self._die()

    def replace(self, source: Any, target: Any) -> None:
        if self._strikes():
            if self.fault == "full":
                raise OSError(28, "No space left on device")
            self._die()
        os.replace(source, target)


def job(model: str, variant: str, folder: Path, faulty: Faulty | None) -> int:
    """Train from the beginning, or go on where a run is there; 0 done, 2 refused with a message."""
    if faulty is not None:
        storage.os = faulty  # type: ignore[assignment]
    try:
        resume = (folder / "recipe.toml").exists()
        train(Run.open(folder, None).recipe if resume else recipe(model, variant), folder, resume=resume)
    except LongthinkError as e:
        print(json.dumps({"message": str(e)}), file=sys.stderr)
        return 2
    if faulty is not None:
        (folder / "calls").write_text(str(faulty.count))
    return 0


def forked(model: str, variant: str, folder: Path, faulty: Faulty | None) -> int:
    """The exit status of the job in a child; negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.chdir(model)  # where few.jsonl lies
            status = job(model, variant, folder, faulty)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    from transformers import PreTrainedTokenizerFast  # noqa: F401 (which a first step imports: no child pays again)

    for line in sys.stdin:
        model, root, variant, fault, ks = json.loads(line)
        found = []
        for k in ks:
            folder = Path(root) / str(k)
            first = forked(model, variant, folder, Faulty(fault, k))
            found.append({"k": k, "first": first, "second": forked(model, variant, folder, None) if fault != "none" else 0})
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
