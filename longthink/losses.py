"""Per-token losses and how tokens are weighed. Pure functions; the learner sums and differentiates them."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["kl_k3", "surrogate", "token_weights"]

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"]


def surrogate(
    logprobs: Float[Tensor, " n"],
    old_logprobs: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The clipped policy loss per token, and 1.0 where the clip took the gradient away.

    -min(ratio·A, clip(ratio, 1-clip_low, 1+clip_high)·A), ratio = exp(logprobs - old_logprobs) per token.
    Source: GRPO (DeepScaleR 2, symmetric 0.2); decoupled bounds from DAPO, used by SIRI (0.2/0.28) and
    NVIDIA (0.2/0.4). Differs: Open-RS eq. 1 and NVIDIA eq. 1 write a sequence ratio; their code takes this one.

    Example: ratio 1.5, A = 1, clip_high 0.28 gives -1.28 and 1.0.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return -torch.minimum(free, bound), (bound < free).to(logprobs.dtype)


def kl_k3(logprobs: Float[Tensor, " n"], reference_logprobs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The k3 estimate of KL(policy || reference) per token: exp(d) - d - 1 with d = reference - policy, clamped to 10.

    Never negative, zero where the two agree. d is clamped to ±20 before the exponential.
    Source: Schulman 2020; DeepScaleR's code ("low_var_kl", result clamped to [-10, 10]).
    """
    d = (reference_logprobs - logprobs).clamp(-20.0, 20.0)
    return (torch.expm1(d) - d).clamp(max=10.0)  # exp(d) - d - 1 rounds below zero for small d


def token_weights(
    sequence: Int[Tensor, " n"], lengths: Int[Tensor, " B"], num_tokens: int, num_sequences: int, mode: Aggregation
) -> Float[Tensor, " n"]:
    """What each token's loss is multiplied by, so that a sum over any cut of the mini-batch is the mean.

    token_mean: 1/num_tokens. seq_mean_token_mean: 1/(num_sequences · tokens of its sequence).
    seq_mean_token_sum: 1/num_sequences. Counts are of loss tokens over the whole mini-batch, zero-advantage
    rows included; a sequence without loss tokens still counts as a sequence. `sequence` [n] says whose token
    it is, `lengths` [B] how many loss tokens each sequence has.
    Source: papers write seq_mean_token_mean, most code takes token_mean (papers.md 6.2).
    """
    match mode:
        case "token_mean":
            return torch.full(sequence.shape, 1.0 / max(num_tokens, 1), dtype=torch.float64)
        case "seq_mean_token_mean":
            return 1.0 / (max(num_sequences, 1) * lengths.to(torch.float64)[sequence])
        case "seq_mean_token_sum":
            return torch.full(sequence.shape, 1.0 / max(num_sequences, 1), dtype=torch.float64)
