"""Log-probs and entropy from hidden states without ever holding all logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["logprobs_and_entropy"]


class _ChunkedHead(torch.autograd.Function):
    """logits = h Wᵀ / temperature, row chunk by row chunk; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy = hidden.new_empty(len(labels)), hidden.new_empty(len(labels))
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            logits = (hidden[rows] @ weight.T).div_(temperature)
            normaliser = logits.logsumexp(dim=-1)
            logprobs[rows] = logits.gather(1, labels[rows, None]).squeeze(1) - normaliser
            probs = torch.softmax(logits, dim=-1)
            entropy[rows] = normaliser - (probs.mul_(logits)).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, labels, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, entropy = ctx.saved_tensors
        to_logprob, to_entropy = grads
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(labels), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logp = torch.log_softmax((hidden[rows] @ weight.T).div_(ctx.temperature), dim=-1)
            probs = logp.exp()
            # d logprob/d logits = onehot - p;  d entropy/d logits = -p (log p + entropy)
            slope = logp.add_(entropy[rows, None]).mul_(to_entropy[rows, None]).add_(to_logprob[rows, None])
            slope = slope.mul_(probs).neg_()
            slope.scatter_add_(1, labels[rows, None], to_logprob[rows, None])
            slope.div_(ctx.temperature)
            grad_hidden[rows] = slope @ weight
            grad_weight.addmm_(slope.T, hidden[rows])
        return grad_hidden, grad_weight, None, None, None


def logprobs_and_entropy(
    hidden: Float[Tensor, "n H"], weight: Float[Tensor, "V H"], labels: Int[Tensor, " n"], temperature: float, chunk: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-prob (nats) of each label and entropy of each distribution at `temperature`.

    No tensor larger than chunk × V is made. Logits are computed in the dtype of `hidden` (fp32 or float64).
    Temperature 0 (greedy) is read as 1, as the sampler reports it.
    """
    logprobs, entropy = _ChunkedHead.apply(hidden, weight, labels, temperature or 1.0, chunk)  # type: ignore[no-untyped-call]
    return logprobs, entropy
