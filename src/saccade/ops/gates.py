"""Products with gates and the pooling functions of gates, with memory-efficient backward passes.

A gate needs little arithmetic; the cost of its plain backward pass is the allocation of large temporary
tensors. These functions have the values and gradients of their formulas. Under compilation, export or
tracing, they are the plain formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.maps import ChannelMap, Tap
from saccade.ops.eager import is_eager

_PRODUCTS = 1 << 20  # products held at a time while they are summed


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """Return gate * x.

    The gradient of the gate is the sum of grad * x over the axes on which the gate has size 1. It is computed
    a few images at a time, so that the products of the whole batch are never held.

    Args:
        x: Features, (B, ...).
        gate: Weights with the axes of x, each of the same size or 1.

    Returns:
        A tensor of the shape of x.

    Example:
        >>> import torch
        >>> scale(torch.ones(2, 3, 4), torch.tensor([0.5, 1.0]).reshape(2, 1, 1)).sum((1, 2))
        tensor([ 6., 12.])
    """
    result: Tensor = _Scale.apply(x, gate) if _eager() else x * gate
    return result


def gate_channels(x: Tensor, gate: Tensor, tap: Tap) -> Tensor:
    """Return x with its channels scaled by a gate. The tap publishes the gate if it is recording.

    Args:
        x: Features, (B, C, ...).
        gate: Weights, (B, C).
        tap: Tap of the mechanism.
    """
    if tap.recording:
        tap.publish(ChannelMap.of(gate, x))
    return scale(x, gate.reshape(*gate.shape, *[1] * (x.ndim - 2)))


def mean(x: Tensor) -> Tensor:
    """Return the mean over the last axis. Its gradient is an expanded view, not a copy.

    Example:
        >>> import torch
        >>> mean(torch.tensor([[1.0, 3.0]]))
        tensor([2.])
    """
    result: Tensor = _Mean.apply(x) if _eager() else x.mean(-1)
    return result


def mean_and_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the maximum over one axis, with one tensor for both gradients.

    Among equal values, the gradient of the maximum goes to the index that `torch.max` returns. Under
    compilation the values share it equally, as in `torch.amax`, which compiles to a single pass. Both are
    subgradients.

    Example:
        >>> import torch
        >>> mean_and_maximum(torch.tensor([[1.0, 3.0]]), 1)
        (tensor([2.]), tensor([3.]))
    """
    if not _eager():
        return x.mean(dim), x.amax(dim)
    average, maximum, _ = _MeanAndMaximum.apply(x, dim)
    return average, maximum


def mean_of_products(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the mean over channels of a gate of rows times a gate of columns, without their product.

    Args:
        rows: Weights of rows, (B, C, H, 1).
        columns: Weights of columns, (B, C, 1, W).

    Returns:
        Mean weights, (B, H, W).

    Example:
        >>> import torch
        >>> rows, columns = torch.rand(1, 3, 4, 1), torch.rand(1, 3, 1, 5)
        >>> torch.allclose(mean_of_products(rows, columns), (rows * columns).mean(1))
        True
    """
    return rows.squeeze(3).mT @ columns.squeeze(2) / rows.shape[1]


def _eager() -> bool:
    """Return whether to use the custom backward passes: a compiler fuses the plain formulas by itself."""
    return torch.is_grad_enabled() and is_eager()


class _Scale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> Tensor:
        return x * gate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (x, gate) = gradients, ctx.saved_tensors
        reduced = [dim for dim in range(1, x.ndim) if gate.shape[dim] == 1]
        d_x = grad * gate if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None
        images = max(1, _PRODUCTS // max(1, x[:1].numel()))
        sums = [
            (a * b).sum(reduced, keepdim=True) if reduced else a * b
            for a, b in zip(grad.split(images), x.split(images), strict=True)
        ]
        return d_x, torch.cat(sums).sum_to_size(gate.shape)


class _Mean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.mean(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        ctx.length = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        d_each: Tensor = gradients[0] / ctx.length
        return d_each.unsqueeze(-1).expand(*d_each.shape, ctx.length)


class _MeanAndMaximum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        maximum, index = x.max(dim)
        return x.mean(dim), maximum, index

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, ctx.dim = inputs
        ctx.save_for_backward(x, output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        d_mean, d_maximum, _ = (grad.unsqueeze(ctx.dim) for grad in gradients)
        x, index = ctx.saved_tensors
        d_x = torch.empty_like(x).copy_(d_mean / x.shape[ctx.dim])  # in the memory format of x
        return d_x.scatter_add_(ctx.dim, index.unsqueeze(ctx.dim), d_maximum), None
