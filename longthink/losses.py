"""Per-token losses and how tokens are weighed. Pure functions; the learner sums and differentiates them."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["MAX_LOG_RATIO", "correction", "kl_estimate", "sequence_ratio", "surrogate", "token_weights"]

MAX_LOG_RATIO = 20.0  # beyond it exp overflows sooner or later, and 0 · inf in its gradient is no number

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant"]


def sequence_ratio(
    log_ratio: Float[Tensor, " n"], sequence: Int[Tensor, " n"], level: Literal["token", "sequence", "sequence_mean"]
) -> Float[Tensor, " n"]:
    """The log of the ratio each token's loss is computed with; `sequence` [n] says whose token it is.

    token: its own. sequence: the sum over its sequence, the ratio of two whole responses. sequence_mean: that divided by
    the number of the sequence's tokens. Each token carries its sequence's value, so that `seq_mean_token_mean` averages
    over sequences. Source: token, the code of all five papers; sequence, Open-RS eq. 1 and NVIDIA eq. 1 as written;
    sequence_mean, GSPO (2025, eq. 7).

    Example: log ratios 0.1 and 0.3 of one response are 0.4 and 0.4 by sequence, 0.2 and 0.2 by sequence_mean.
    """
    if level == "token" or not len(log_ratio):
        return log_ratio
    size = int(sequence.max()) + 1
    total = log_ratio.new_zeros(size).index_add(0, sequence, log_ratio)
    if level == "sequence_mean":
        total = total / torch.bincount(sequence, minlength=size).clamp(min=1).to(log_ratio.dtype)
    return total[sequence]


def surrogate(
    log_ratio: Float[Tensor, " n"], advantages: Float[Tensor, " n"], *, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The clipped policy loss per token, and 1.0 where a clip took the gradient away.

    -min(ratio·A, clip(ratio, 1-clip_low, 1+clip_high)·A), ratio = exp(log_ratio within ±20); with `dual_clip` c > 1 no less
    than c·A where A < 0, so that a token the policy now makes much likelier cannot pull without bound.
    Source: GRPO (DeepScaleR 2, symmetric 0.2); decoupled bounds from DAPO, used by SIRI (0.2/0.28) and
    NVIDIA (0.2/0.4); dual clip from Ye et al. 2020, on in verl's code with c = 3.

    Example: ratio 1.5, A = 1, clip_high 0.28 gives -1.28 and 1.0; ratio 5, A = -1, dual_clip 3 gives 3 and 1.0.
    """
    ratio = torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    free = ratio * advantages
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    gain, clipped = torch.minimum(free, bound), bound < free
    if dual_clip:
        floor = torch.where(advantages < 0, dual_clip * advantages, torch.full_like(advantages, -torch.inf))
        clipped = clipped | (gain < floor)
        gain = torch.maximum(gain, floor)
    return -gain, clipped.to(log_ratio.dtype)


def correction(
    log_ratio: Float[Tensor, " n"], kind: Literal["none", "truncate", "mask"], low: float, high: float
) -> Float[Tensor, " n"]:
    """What a token's policy loss is multiplied by where the sampler drew it with other odds than the learner gives it.

    `log_ratio` is the learner's old log-prob minus the sampler's, brought to its level by `sequence_ratio`. truncate: the
    ratio, at most `high`. mask: the ratio where it lies within [low, high], else 0. No gradient passes.
    Source: truncated importance sampling (Yao et al. 2025, C = 2); the mask is IcePop's, in NeMo RL's later ProRL
    within [0.5, 5].

    >>> [correction(torch.log(torch.tensor([0.5, 1.0, 4.0])), kind, 0.75, 2.0).tolist() for kind in ("truncate", "mask")]
    [[0.5, 1.0, 2.0], [0.0, 1.0, 0.0]]
    """
    ratio = torch.exp(log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    match kind:
        case "none":
            return torch.ones_like(ratio)
        case "truncate":
            return ratio.clamp(max=high)
        case "mask":
            return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


def kl_estimate(log_ratio: Float[Tensor, " n"], kind: Literal["k1", "k2", "k3"] = "k3") -> Float[Tensor, " n"]:
    """An estimate of KL(policy || reference) per token from log_ratio = policy - reference; d = -log_ratio within ±20.

    For the KL of whole responses, as Open-RS eq. 1 is written, `log_ratio` is brought to that level by `sequence_ratio`; a
    long response's sum soon meets the bounds, where no gradient is left, which is why the papers' code is per token.
    k1 = -d, unbiased and of either sign; k2 = d²/2; k3 = exp(d) - d - 1, never negative. The last two are clamped to at most
    10. As a loss, k1's expected gradient is zero and k2's is the KL's own.
    Source: Schulman 2020; k3 is DeepScaleR's code ("low_var_kl", clamped to [-10, 10]), Open-RS and NVIDIA; k1 in the reward
    is STILL-3's code; k2 is NeMo RL's later ProRL.
    """
    d = (-log_ratio).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match kind:
        case "k1":
            return -d
        case "k2":
            return (0.5 * d * d).clamp(max=10.0)
        case "k3":
            return (torch.expm1(d) - d).clamp(max=10.0)  # exp(d) - d - 1 rounds below zero for small d


def token_weights(
    sequence: Int[Tensor, " n"],
    lengths: Int[Tensor, " B"],
    num_tokens: int,
    num_sequences: int,
    mode: Aggregation,
    normalizer: int = 0,
) -> Float[Tensor, " n"]:
    """What each token's loss is multiplied by, so that a sum over any cut of the mini-batch is the mean.

    token_mean: 1/num_tokens. seq_mean_token_mean: 1/(num_sequences · tokens of its sequence).
    seq_mean_token_sum: 1/num_sequences. constant: 1/(num_sequences · normalizer), whatever the lengths.
    Counts are of loss tokens over the whole mini-batch, zero-advantage rows included; `num_sequences` are those with a loss
    token. `sequence` [n] says whose token it is, `lengths` [B] how many loss tokens
    each sequence has.
    Source: the five papers write seq_mean_token_mean, most of their code takes token_mean; constant is Dr. GRPO's (2025,
    section 3.1), whose normalizer is the longest response allowed.
    """
    match mode:
        case "token_mean":
            return torch.full(sequence.shape, 1.0 / max(num_tokens, 1), dtype=torch.float64)
        case "seq_mean_token_mean":
            return 1.0 / (max(num_sequences, 1) * lengths.to(torch.float64)[sequence])
        case "seq_mean_token_sum":
            return torch.full(sequence.shape, 1.0 / max(num_sequences, 1), dtype=torch.float64)
        case "constant":
            return torch.full(sequence.shape, 1.0 / (max(num_sequences, 1) * normalizer), dtype=torch.float64)
