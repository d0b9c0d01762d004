"""Where rewards become advantages. Nothing else in longthink computes one."""

import numpy as np
import torch

from longthink.losses import kl_estimate
from longthink.tables import AdvantageSettings, LossSettings
from longthink.types import Batch, Floats

__all__ = ["advantages", "kl_to_go"]

WHITENING_EPSILON = 1e-8


def advantages(batch: Batch, settings: AdvantageSettings, loss: LossSettings | None = None, kl_weight: float = 0.0) -> Batch:
    """The batch with one advantage per token: the rollout's reward against its group.

    A = (r - mean) / (std + epsilon) with the unbiased (n-1) standard deviation, or r - mean when `settings.std` is
    "none"; mean and std are those of the group's counted rollouts (`Group.counted`), and n their number. With
    `baseline` leave_one_out the mean is that of the others, which makes r - mean larger by n/(n-1). With
    `loss.kl_in` "reward" each token then loses `kl_weight` times `kl_to_go`. With `whiten` the mean over all trained
    tokens of the batch is then subtracted, and the rest divided by their unbiased standard deviation + 1e-8.
    Shapes: rewards [B] -> advantages [S]; without a KL every token of a rollout carries its rollout's value. Edge cases:
    equal rewards give exactly 0 (the spread is tested, not the rounded mean) and, without a KL, are not whitened; a
    group with one counted rollout gives 0, and so does a rollout that is not counted.

    Source: DeepSeekMath's GRPO; DeepScaleR's code takes the unbiased std and epsilon 1e-6. Leave-one-out without std is
    RLOO (Ahmadian et al. 2024); group mean without std, whitened, is the REINFORCE++ baseline of NeMo RL's later ProRL;
    STILL-3's code takes the KL into the reward of GRPO's advantages and whitens those.

    Example, rewards 1 0 0 0: mean 1/4, unbiased variance 1/4, so the winner gets 3/4 / (1/2 + epsilon) = 1.5; by
    leave-one-out without std it gets 1 and each other -1/3.
    """
    per_rollout, mixed = np.zeros(len(batch), np.float64), np.zeros(len(batch), np.bool_)
    for group in range(batch.num_groups):
        rows = np.flatnonzero((batch.group == group) & batch.counted)
        rewards = batch.rewards[rows]
        if len(rows) < 2 or rewards.max() == rewards.min():
            continue
        scale = rewards.std(ddof=1) + settings.epsilon if settings.std == "unbiased" else 1.0
        factor = len(rows) / (len(rows) - 1) if settings.baseline == "leave_one_out" else 1.0
        per_rollout[rows], mixed[rows] = factor * (rewards - rewards.mean()) / scale, True
    per_token = per_rollout[batch.row]
    if loss is not None and loss.kl and loss.kl_in == "reward":
        per_token, mixed = per_token - kl_weight * kl_to_go(batch, loss), np.ones(len(batch), np.bool_)
    trained = per_token[batch.loss_mask]
    if settings.whiten and len(trained) > 1 and trained.max() > trained.min():
        white = (per_token - trained.mean()) / (trained.std(ddof=1) + WHITENING_EPSILON)
        per_token = np.where(mixed[batch.row], white, 0.0)
    return batch.with_(advantages=per_token.astype(np.float32))


def kl_to_go(batch: Batch, loss: LossSettings) -> Floats:
    """[S] for every trained token the KL estimates from it to the end of its response, added up (discount 1).

    The estimates are of the old policy against the reference, per token. Source: STILL-3's code (k1, coefficient 1e-3).

    Example, estimates 1 2 3 of one response: 6 5 3.
    """
    assert batch.old_logprobs is not None and batch.reference_logprobs is not None
    log_ratio = torch.from_numpy((batch.old_logprobs - batch.reference_logprobs).astype(np.float64))
    per_token = np.where(batch.loss_mask, kl_estimate(log_ratio, loss.kl_estimator).numpy(), 0.0)
    so_far = np.cumsum(per_token)
    to_go: Floats = (so_far[batch.offsets[1:] - 1][batch.row] - so_far + per_token).astype(np.float32)
    return to_go
