"""Where rewards become advantages. Nothing else in longthink computes one."""

import numpy as np

from longthink.recipe import AdvantageSettings
from longthink.types import Batch

__all__ = ["advantages"]


def advantages(batch: Batch, settings: AdvantageSettings) -> Batch:
    """The batch with one advantage per token: the rollout's reward against its group.

    A = (r - mean) / (std + epsilon) with the unbiased (n-1) standard deviation, or r - mean when
    `settings.std` is "none". Shapes: rewards [B] -> advantages [S]; every token of a rollout carries its
    rollout's value. Edge cases: equal rewards give exactly 0 (the spread is tested, not the rounded mean);
    a group of one gives 0.

    Source: DeepSeekMath's GRPO; DeepScaleR's code takes the unbiased std and epsilon 1e-6.

    Example, rewards 1 0 0 0: mean 1/4, unbiased variance 1/4, so the winner gets 3/4 / (1/2 + epsilon) = 1.5.
    """
    per_rollout = np.zeros(len(batch), np.float64)
    for group in range(batch.num_groups):
        rows = np.flatnonzero(batch.group == group)
        rewards = batch.rewards[rows]
        if len(rows) < 2 or rewards.max() == rewards.min():
            continue
        scale = rewards.std(ddof=1) + settings.epsilon if settings.std == "unbiased" else 1.0
        per_rollout[rows] = (rewards - rewards.mean()) / scale
    return batch.with_(advantages=per_rollout[batch.row].astype(np.float32))
