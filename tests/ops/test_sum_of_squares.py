"""Sums of squares: values and gradients of the formula, in float32 for half precision, in little memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.ops import sum_of_squares as module
from saccade.ops.sum_of_squares import sum_of_squares
from support.parity import Largest


def leaf(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_values_and_gradients_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SQUARES", 1)  # one image at a time
    x = leaf(3, 4, 5)
    y, expected = sum_of_squares(x), (x**2).sum(-1)
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=0)
    weight = torch.rand_like(y)
    gradients = (torch.autograd.grad(z, x, weight)[0] for z in (y, expected))
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=0)
    assert torch.autograd.gradgradcheck(sum_of_squares, leaf(2, 2, 3))


def test_functional_gradients_and_vmap() -> None:
    x = leaf(2, 3, 4, 5).detach()
    gradient = torch.func.vmap(torch.func.grad(lambda x: sum_of_squares(x).square().sum()))(x)
    torch.testing.assert_close(gradient, 4 * x * (x**2).sum(-1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((2, 1, 1000), 300.0, dtype=dtype).requires_grad_()
    y = sum_of_squares(x)
    assert (y.dtype, y.flatten().tolist()) == (torch.float32, [9e7, 9e7])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient == 600).all()
    assert gradient.dtype is dtype


def test_squares_of_the_whole_batch_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SQUARES", 100)
    x, largest = torch.randn(8, 10, 50), Largest()  # type: ignore[no-untyped-call]
    with torch.no_grad(), largest:
        sum_of_squares(x)
    assert largest.elements < x.numel()
