"""Comparison of a mechanism with a reference: values and all gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import saccade as sc

TOLERANCE = 1e-9  # relative to the largest value compared
Parameters = Mapping[str, Tensor]


def build(name: str, channels: int, **options: Any) -> nn.Module:
    """Return the mechanism in float64 with random parameters, far from any special initialization."""
    torch.manual_seed(0)
    module = sc.create(name, channels, **options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return the same normally distributed float64 tensor at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(what: str, got: Tensor, expected: Tensor, *, floor: float = 0.0) -> None:
    """Assert equality to `TOLERANCE` of the largest value expected, or of `floor` if that is larger."""
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    error = (got - expected).abs().max().item()
    assert error <= TOLERANCE * max(expected.abs().max().item(), floor), f"{what}: off by {error:.1e}"


def assert_parity(
    module: nn.Module,
    reference: Callable[..., Tensor],
    *inputs: Tensor,
    vanishing: Collection[str] = (),
) -> None:
    """Assert that `module(*inputs)` equals `reference(parameters, *inputs)`, and so do all gradients.

    Both use the same inputs and parameters: a reference with other shapes reshapes them itself, so that the
    gradients belong to the same tensors. The gradients of the parameters `vanishing` are 0 up to rounding,
    such as that of a bias before a batch norm in training: they are compared with the largest gradient.
    """
    leaves = [x.clone().requires_grad_() for x in inputs]
    parameters = dict(module.named_parameters())
    output, expected = module(*leaves), reference(parameters, *leaves)
    assert_close("the output", output, expected)
    projection = normal(*expected.shape, seed=99)
    targets = {f"input {i}": leaf for i, leaf in enumerate(leaves)} | parameters
    gradients = torch.autograd.grad(output, [*targets.values()], projection)
    references = torch.autograd.grad(expected, [*targets.values()], projection)
    # Some gradients are 0 up to rounding, such as that of a key bias, which the softmax over keys cancels.
    largest = max(gradient.abs().max().item() for gradient in references)
    for name, got, want in zip(targets, gradients, references, strict=True):
        if name in vanishing:
            assert max(got.abs().max().item(), want.abs().max().item()) <= TOLERANCE * largest, name
        else:
            assert_close(f"the gradient of {name}", got, want, floor=1e-3 * largest)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returns."""

    elements: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def largest_tensor(module: nn.Module, *inputs: Tensor) -> int:
    """Return the number of elements of the largest tensor in a forward and backward pass."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    largest = Largest()  # type: ignore[no-untyped-call]
    with largest:
        module(*leaves).sum().backward()
    return largest.elements
