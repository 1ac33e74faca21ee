"""softmax_pool has the values and gradients of its formula, and allocates one tensor for the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.ops.softmax_pool import softmax_pool
from support.parity import assert_close, normal


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    exponentials = (torch.einsum("bcn,c->bn", x, weight) + bias).exp()
    weights = exponentials / exponentials.sum(1, keepdim=True)
    return torch.einsum("bcn,bn->bc", x, weights), weights


def inputs(*shape: int) -> list[Tensor]:
    leaves = [normal(*shape), normal(shape[1], seed=1), normal(seed=2)]
    return [leaf.requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 4, 1), (1, 1, 6)], ids=str)
def test_values_and_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    leaves = inputs(*shape)
    projections = normal(*shape[:2], seed=3), normal(shape[0], shape[2], seed=4)
    for got, expected in zip(softmax_pool(*leaves), plain(*leaves), strict=True):
        assert_close("value", got, expected)
    gradients = [torch.autograd.grad(f(*leaves), leaves, projections) for f in (softmax_pool, plain)]
    for got, expected in zip(*gradients, strict=True):
        assert_close("gradient", got, expected, floor=1)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradgradcheck(softmax_pool, inputs(2, 3, 4))


def test_half_precision_stays_under_autocast_and_outside() -> None:
    x, weight, bias = (leaf.detach().float() for leaf in inputs(2, 5, 7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(softmax_pool(x, weight, bias)[0], softmax_pool(x, weight, bias)[0].float())
    means, weights = softmax_pool(x.bfloat16(), weight, bias)
    assert means.dtype is weights.dtype is torch.bfloat16


def test_gradients_of_a_vectorized_call() -> None:
    x, weight, bias = inputs(2, 5, 7)
    each = torch.func.vmap(torch.func.grad(lambda w, x: softmax_pool(x[None], w, bias)[0].sum()), (None, 0))(
        weight, x
    )
    for i in range(2):
        (expected,) = torch.autograd.grad(plain(x[i : i + 1], weight, bias)[0].sum(), weight)
        assert_close("gradient", each[i], expected)
