"""Reward files of the user's own are tried on sample responses before a run depends on them."""

from collections.abc import Mapping
from typing import Any

from longthink.errors import RewardError
from longthink.rewards.base import Reward
from longthink.rewards.file import File
from longthink.rewards.pool import RewardPool
from longthink.tasks.base import Task
from longthink.validation import Source

__all__ = ["tried_files"]

SAMPLES = ("", "<think> so </think> {gold}", "<think> wait, " * 200)


def tried_files(
    tasks: Mapping[str, Task], rewards: Mapping[str, Reward], parts: Mapping[str, Reward], sets: Mapping[str, Source]
) -> list[str]:
    """What each reward file gives sample responses to a first problem, a line each.

    The problem is of its domain, of every domain for a part, of its own for a validation set.

    Raises: RewardError for one that fails on them.
    """
    tries = [(f"domain {name}" if name else "reward", reward, [tasks[name]]) for name, reward in rewards.items()]
    tries += [(name, part, list(tasks.values())) for name, part in parts.items()]
    golds = [
        (name, reward, task.problem("train", 0).gold) for name, reward, on in tries if isinstance(reward, File) for task in on
    ]
    golds += [
        (f"validation set {name}", reward, source.tasks[name].problem("validation", 0).gold)
        for name, source in sets.items()
        for reward in (source.grading.rewards.get(name),)
        if isinstance(reward, File) and name in source.tasks
    ]
    return [f"{name}: {_tried(reward, gold)}" for name, reward, gold in golds]


def _tried(reward: File, gold: Any) -> str:
    with RewardPool(reward, 1) as pool:
        for key, text in enumerate(SAMPLES):
            pool.submit(key, text.replace("{gold}", str(gold)), gold)
        verdicts = [pool.take(key) for key in range(len(SAMPLES))]
    failed = next((v for v in verdicts if v.score is None), None)
    if failed is not None:
        why = failed.detail.get("why", failed.status)
        raise RewardError(f"{reward.path}: {reward.function} fails on a sample response: {why}")
    empty, right, endless = (v.score for v in verdicts)
    return f"{reward.path} gives {empty} to nothing, {right} to the gold after thinking, {endless} to endless thinking"
