"""The elementwise parts of a layer, each with a backward pass written by hand.

Autograd's own passes over memory cost a small model as much as its matrix products. These make fewer passes, keep
less, and write gradients where they belong. `x` is wide (fp32, or float64 for a float64 model); `dtype` is the matmuls'.
In inference mode, the sampler's, fewer and smaller calls take their place; the last bits may differ.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["rms_norm", "rotary", "swiglu"]


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Each row of x [n, H] over its root mean square, times weight [H], in `dtype`."""
    if not torch.is_inference_mode_enabled():
        return _RmsNorm.apply(x, weight, eps, dtype)  # type: ignore[no-any-return,no-untyped-call]
    return F.rms_norm(x, x.shape[-1:], weight, eps).to(dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    squares: Tensor = torch.linalg.vecdot(x, x)
    return squares.div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        unit, grad = x * scale, grad.to(x.dtype)
        product = grad * unit
        grad_weight, radial = product.sum(dim=0), torch.mv(product, weight).div_(x.shape[-1])
        # the part along x only changes its length, which the norm takes away again
        grad_x = torch.mul(grad, weight, out=product).addcmul_(unit, radial.unsqueeze(-1), value=-1).mul_(scale)
        return grad_x, grad_weight, None, None


def rotary(x: Tensor, norm: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Queries and keys x [n, heads, D], normed by head where `norm` [heads, D] is given, then rotated; dtype as x.

    cos and `sin`, whose first half is negated, are [n, 1, D] and wide.
    """
    if not torch.is_inference_mode_enabled():
        return _Rotary.apply(x, norm, cos, sin, eps)  # type: ignore[no-any-return,no-untyped-call]
    y = x.to(cos.dtype)
    if norm is not None:
        y = F.rms_norm(y, y.shape[-1:], None, eps) * norm
    return _rotate(y, cos, sin).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        y, scale = x.to(cos.dtype), None
        if norm is not None:
            scale = _inverse_rms(y, eps)
            y = (y * scale).mul_(norm)
        ctx.save_for_backward(x if norm is not None else None, norm, cos, sin, scale)
        ctx.dtype = x.dtype
        return _rotate(y, cos, sin).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, cos, sin, scale = ctx.saved_tensors
        grad = grad.to(cos.dtype)
        grad = (grad * cos).add_((grad * sin).roll(grad.shape[-1] // 2, dims=-1))
        if norm is None:
            return grad.to(ctx.dtype), None, None, None, None
        unit = x * scale
        product = grad * unit
        grad_norm = product.sum(dim=0)
        radial = product.mul_(norm).sum(dim=-1, keepdim=True).div_(x.shape[-1])
        grad_x = grad.mul_(norm).addcmul_(unit, radial, value=-1).mul_(scale)
        return grad_x.to(ctx.dtype), grad_norm, None, None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of gate and up side by side [n, 2·I] -> [n, I]."""
    if not torch.is_inference_mode_enabled():
        return _SwiGlu.apply(gate_up)  # type: ignore[no-any-return,no-untyped-call]
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        found = torch.empty_like(gate_up)
        to_gate, to_up = found.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad, out=to_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=to_gate)
        return found
