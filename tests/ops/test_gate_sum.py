"""scale_by_sum has the values and gradients of its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.ops import gate_sum
from support.parity import assert_close, normal

GATES = [(3, 4, 1, 6), (3, 4, 5, 1), (3, 1, 5, 6), (3, 4, 5, 6)]


def inputs(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("products", [1, 1 << 20], ids=["one image at a time", "all images at once"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_values_and_gradients_are_those_of_the_formula(
    count: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_sum, "_PRODUCTS", products)
    x, *gates = leaves = inputs([(3, 4, 5, 6), *GATES[:count]])
    y = gate_sum.scale_by_sum(x, gates)
    expected = torch.stack([x * gate for gate in gates]).sum(0)
    assert_close("value", y, expected)
    projection = normal(*x.shape, seed=9)
    gradients = torch.autograd.grad(y, leaves, projection), torch.autograd.grad(expected, leaves, projection)
    for got, want in zip(*gradients, strict=True):
        assert_close("gradient", got, want)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    leaves = inputs([(2, 2, 3, 2), (2, 2, 1, 2), (2, 1, 3, 2)])
    assert torch.autograd.gradgradcheck(lambda x, *gates: gate_sum.scale_by_sum(x, gates), leaves)
