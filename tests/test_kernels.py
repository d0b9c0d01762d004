"""The hand-written backward passes: against finite differences, against autograd, and the same forward without gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from longthink.kernels import rms_norm, rotary, swiglu

EPS = 1e-2  # large enough to show in every derivative


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def angles(rows, size):
    cos, sin = draw(rows, 1, size // 2, seed=8).detach(), draw(rows, 1, size // 2, seed=9).detach()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def test_rms_norm_by_hand():
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 1.0])
    # mean square 12.5, and 3.5 more makes 16
    torch.testing.assert_close(rms_norm(x, weight, 3.5, torch.float32), torch.tensor([[6 / 4, 4 / 4]]))
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x, weight, 3.5, torch.float32), torch.tensor([[6 / 4, 4 / 4]]))


def test_rotary_by_hand():
    """A quarter turn takes the pair (x0, x2) to (-x2, x0); a half turn takes (x1, x3) to its negative."""
    cos, sin = torch.tensor([[[0.0, -1.0, 0.0, -1.0]]]), torch.tensor([[[-1.0, 0.0, 1.0, 0.0]]])
    turned = rotary(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), None, cos, sin, EPS)
    assert turned.tolist() == [[[-3.0, -2.0, 1.0, -4.0]]]


CASES = {
    "rms_norm": (lambda x, w: rms_norm(x, w, EPS, torch.float64), (draw(5, 6), draw(6, seed=1))),
    "rotary": (lambda x: rotary(x, None, *angles(4, 6), EPS), (draw(4, 3, 6),)),
    "rotary with norm": (lambda x, w: rotary(x, w, *angles(4, 6), EPS), (draw(4, 3, 6), draw(3, 6, seed=1))),
    "swiglu": (swiglu, (draw(5, 8),)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name):
    function, inputs = CASES[name]
    assert gradcheck(function, inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_forward_pass_is_the_same_without_gradients(name):
    function, inputs = CASES[name]
    with torch.no_grad():
        plain = function(*inputs)
    torch.testing.assert_close(function(*inputs).detach(), plain, atol=1e-14, rtol=1e-14)


def test_bf16_gradients_stay_close_to_the_exact_ones():
    x, weight, cos_sin = draw(64, 4, 16), draw(4, 16, seed=1), [a.float() for a in angles(64, 16)]
    exact = torch.autograd.grad(rotary(x, weight, *(a.double() for a in cos_sin), EPS).sum(), (x, weight))
    low = [x.detach().bfloat16().requires_grad_(), weight.detach().float().requires_grad_()]
    found = torch.autograd.grad(rotary(low[0], low[1], *cos_sin, EPS).float().sum(), low)
    for a, b, dtype in zip(found, exact, (torch.bfloat16, torch.float32), strict=True):
        assert a.dtype == dtype and (a.double() - b).norm() < 0.02 * b.norm()


def test_views_and_strides_do_not_matter():
    """Queries and keys come as part of a wider tensor, gate and up side by side in one."""
    wide, norm = draw(6, 5, 8), draw(3, 8, seed=1)
    cos, sin = angles(6, 8)
    whole = rotary(wide[:, :3], norm, cos, sin, EPS)
    torch.testing.assert_close(whole, rotary(wide[:, :3].contiguous(), norm, cos, sin, EPS))
    gate, up = wide.flatten(1).chunk(2, dim=-1)
    torch.testing.assert_close(swiglu(wide.flatten(1)), F.silu(gate) * up)
