"""The larger of two products has the values and gradients of torch.maximum, and keeps neither product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.ops import larger_product as module
from saccade.ops.larger_product import larger_product


def plain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a * x, b * x)


def leaves() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 4, 6), (3, 5, 1, 1), (3, 1, 4, 6)]
    x, a, b = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    x[:, :2] = 0  # equal products
    return [x.requires_grad_(), a.requires_grad_(), b.requires_grad_()]


def test_values_and_gradients_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", 1)  # one image at a time
    inputs = leaves()
    y, expected = larger_product(*inputs), plain(*inputs)
    assert torch.equal(y, expected)
    weight = torch.rand_like(y)
    for gradient, its in zip(
        torch.autograd.grad(y, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(gradient, its, rtol=1e-12, atol=1e-14)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    x, a, b = (z.detach()[:, -2:, -2:, -2:].requires_grad_() for z in leaves())
    assert torch.autograd.gradgradcheck(larger_product, (x, a, b))


def test_functional_gradients_and_vmap() -> None:
    inputs = [torch.stack([z.detach()] * 2) for z in leaves()]
    ours, its = (
        torch.func.vmap(torch.func.grad(lambda *z, call=call: call(*z).square().sum()))(*inputs)
        for call in (larger_product, plain)
    )
    torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-14)


def test_only_the_inputs_are_kept() -> None:
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        larger_product(*leaves())
    assert sorted(kept) == [15, 72, 360]
