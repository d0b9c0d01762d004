"""Where rewards become advantages. Nothing else in longthink computes one."""

import numpy as np

from longthink.recipe import AdvantageSettings
from longthink.types import Batch

__all__ = ["advantages"]


WHITENING_EPSILON = 1e-8


def advantages(batch: Batch, settings: AdvantageSettings) -> Batch:
    """The batch with one advantage per token: the rollout's reward against its group.

    A = (r - mean) / (std + epsilon) with the unbiased (n-1) standard deviation, or r - mean when
    `settings.std` is "none". With `baseline` leave_one_out the mean is that of the others, which makes r - mean larger
    by n/(n-1). With `whiten` the mean over all trained tokens of the batch is then subtracted, and the rest divided by
    their unbiased standard deviation + 1e-8. Shapes: rewards [B] -> advantages [S]; every token of a rollout carries
    its rollout's value. Edge cases: equal rewards give exactly 0 (the spread is tested, not the rounded mean) and are not
    whitened; a group of one gives 0.

    Source: DeepSeekMath's GRPO; DeepScaleR's code takes the unbiased std and epsilon 1e-6. Leave-one-out without std is
    RLOO (Ahmadian et al. 2024); group mean without std, whitened, is the REINFORCE++ baseline of NeMo RL's later ProRL;
    STILL-3's code whitens GRPO's advantages.

    Example, rewards 1 0 0 0: mean 1/4, unbiased variance 1/4, so the winner gets 3/4 / (1/2 + epsilon) = 1.5; by
    leave-one-out without std it gets 1 and each other -1/3.
    """
    per_rollout, mixed = np.zeros(len(batch), np.float64), np.zeros(len(batch), np.bool_)
    for group in range(batch.num_groups):
        rows = np.flatnonzero(batch.group == group)
        rewards = batch.rewards[rows]
        if len(rows) < 2 or rewards.max() == rewards.min():
            continue
        scale = rewards.std(ddof=1) + settings.epsilon if settings.std == "unbiased" else 1.0
        factor = len(rows) / (len(rows) - 1) if settings.baseline == "leave_one_out" else 1.0
        per_rollout[rows], mixed[rows] = factor * (rewards - rewards.mean()) / scale, True
    per_token = per_rollout[batch.row]
    trained = per_token[batch.loss_mask]
    if settings.whiten and len(trained) > 1 and trained.max() > trained.min():
        white = (per_token - trained.mean()) / (trained.std(ddof=1) + WHITENING_EPSILON)
        per_token = np.where(mixed[batch.row], white, 0.0)
    return batch.with_(advantages=per_token.astype(np.float32))
