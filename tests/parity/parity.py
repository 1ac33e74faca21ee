"""How a mechanism is compared with a reference: values and all gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import saccade as sc

TOLERANCE = 1e-9  # relative to the largest value compared
Parameters = Mapping[str, Tensor]


def build(name: str, channels: int, **options: Any) -> nn.Module:
    """Return the mechanism in float64 with random parameters, far from any special start."""
    torch.manual_seed(0)
    module = sc.create(name, channels, **options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return the same normally distributed float64 tensor at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(what: str, got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    error = (got - expected).abs().max().item()
    assert error <= TOLERANCE * expected.abs().max().item(), f"{what}: off by {error:.1e}"


def assert_parity(
    module: nn.Module,
    reference: Callable[..., Tensor],
    *inputs: Tensor,
    vanishing: Collection[str] = (),
) -> None:
    """Assert that `module(*inputs)` equals `reference(parameters, *inputs)`, and so do all gradients.

    Both see the same inputs and parameters, so a reference with other shapes reshapes them itself and
    the gradients arrive at the same tensors. Those of the parameters `vanishing` are 0 but for rounding, as
    that of a bias before a batch norm in training: they are compared with the largest gradient.
    """
    leaves = [x.clone().requires_grad_() for x in inputs]
    parameters = dict(module.named_parameters())
    output, expected = module(*leaves), reference(parameters, *leaves)
    assert_close("the output", output, expected)
    projection = normal(*expected.shape, seed=99)
    targets = {f"input {i}": leaf for i, leaf in enumerate(leaves)} | parameters
    ours = torch.autograd.grad(output, [*targets.values()], projection)
    theirs = torch.autograd.grad(expected, [*targets.values()], projection)
    largest = max(gradient.abs().max().item() for gradient in theirs)
    for name, got, want in zip(targets, ours, theirs, strict=True):
        if name in vanishing:
            assert max(got.abs().max().item(), want.abs().max().item()) <= TOLERANCE * largest, name
        else:
            assert_close(f"the gradient of {name}", got, want)
