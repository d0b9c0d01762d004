"""AdamW over torch's fused kernel.

torch.optim.AdamW computes the same bits, but its first use imports torch's compiler: a second of every process's start.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["AdamW"]


class AdamW:
    """The moments of some parameters (Loshchilov and Hutter 2019): epsilon 1e-8, corrected for bias, decay apart."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.state: list[
            dict[str, Tensor]
        ] = []  # a parameter's step, exp_avg and exp_avg_sq, in order; none before the first step

    def begin(self) -> list[dict[str, Tensor]]:
        """The state, zeros where there was none."""
        if not self.state:
            self.state = [
                {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
                for p in self.parameters
            ]
        return self.state

    @torch.no_grad()
    def step(self, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        """One update by the gradients that the parameters hold; each must have one."""
        state = self.begin()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        assert len(grads) == len(self.parameters), "a parameter has no gradient"
        averages, squares, steps = ([one[key] for one in state] for key in ("exp_avg", "exp_avg_sq", "step"))
        adamw(
            list(self.parameters),
            grads,
            averages,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def forget_gradients(self) -> None:
        """Let go of the gradients."""
        for p in self.parameters:
            p.grad = None
