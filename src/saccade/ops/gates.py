"""Products with gates and the pooling functions of gates, with memory-efficient backward passes.

A gate needs little arithmetic; the cost of its plain backward pass is the allocation of large temporary
tensors. These functions have the values and gradients of their formulas. Under compilation, export or
tracing, they are the plain formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saccade.maps import ChannelMap, Tap
from saccade.ops.choice import is_native
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
    if _eager():
        rows = _rows(x, gate)
        if is_native("scale", x, gate, reason="" if rows else "the gate has not one weight for each row"):
            from saccade.ops import native_gates

            return native_gates.scale(x.reshape(rows, -1), gate.flatten()).view_as(x)
    return _plain_scale(x, gate)


def gate_by_pools(
    x: Tensor,
    channel: Callable[[Tensor, Tensor], Tensor] | None = None,
    spatial: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return x scaled by a gate of its channels, and the result by a gate of its positions.

        x' = s x,   s = channel(mean_p x, max_p x)        y = g x',   g = spatial(mean_c x', max_c x')

    The native form reads x three times, keeps neither x' nor a product of the size of x, and in the backward
    pass adds all gradients of x in one tensor.

    Args:
        x: Features, (B, C, ...).
        channel: Function from mean and maximum over positions, (B, C) each, to the weights s, (B, C). None
            leaves this gate out.
        spatial: Function from mean and maximum over channels, (B, ...) each, to the weights g, (B, 1, ...).

    Returns:
        A tensor of the shape of x.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0, 3.0], [2.0, 8.0]]])
        >>> gate_by_pools(x, channel=lambda average, maximum: maximum - average)
        tensor([[[ 1.,  3.],
                 [ 6., 24.]]])
    """
    if is_native("gate_by_pools", x):
        return _gate_by_pools(x.flatten(2), x.shape, channel, spatial)
    if channel is not None:
        weights = channel(*_plain_mean_and_maximum(x.flatten(2), 2))
        x = _plain_scale(x, weights.reshape(*weights.shape, *[1] * (x.ndim - 2)))
    return x if spatial is None else _plain_scale(x, spatial(*_plain_mean_and_maximum(x, 1)))


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
    if is_native("mean_and_maximum", x, reason="" if dim in (1, x.ndim - 1) else "it has no loop for the axis"):
        from saccade.ops import native_gates

        if dim == x.ndim - 1:
            average, maximum, _ = native_gates.place_statistics(x.reshape(1, -1, x.shape[-1]))
            return average.view(x.shape[:-1]), maximum.view(x.shape[:-1])
        average, maximum, _ = native_gates.channel_statistics(x.flatten(2), x.new_ones(x.shape[:2]))
        return average.view_as(x[:, 0]), maximum.view_as(x[:, 0])
    return _plain_mean_and_maximum(x, dim)


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


def _plain_scale(x: Tensor, gate: Tensor) -> Tensor:
    result: Tensor = _Scale.apply(x, gate) if _eager() else x * gate
    return result


def _plain_mean_and_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    if not _eager():
        return x.mean(dim), x.amax(dim)
    average, maximum, _ = _MeanAndMaximum.apply(x, dim)
    return average, maximum


def _eager() -> bool:
    """Return whether to use the custom backward passes: a compiler fuses the plain formulas by itself."""
    return torch.is_grad_enabled() and is_eager()


def _rows(x: Tensor, gate: Tensor) -> int:
    """Return the number of rows of x that have one weight each, or 0 if the gate has another form."""
    if x.ndim != gate.ndim:
        return 0
    axes = next((i for i in range(x.ndim) if x.shape[i:].numel() != 1 and gate.shape[i:].numel() == 1), x.ndim)
    return math.prod(x.shape[:axes]) if axes < x.ndim and gate.shape[:axes] == x.shape[:axes] else 0


def _gate_by_pools(
    x: Tensor,
    shape: torch.Size,
    channel: Callable[[Tensor, Tensor], Tensor] | None,
    spatial: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:
    """The native form, for maps (B, C, P). The statistics return x, so that its gradients form a chain."""
    from saccade.ops import native_gates

    if channel is None:
        weights = x.new_ones(x.shape[:2])
    else:
        average, maximum, _, x = native_gates.PlaceStatistics.apply(x)
        weights = channel(average, maximum).to(x.dtype)
    if spatial is None:
        return native_gates.scale(x.flatten(0, 1), weights.flatten()).view(shape)
    average, maximum, _, x = native_gates.ChannelStatistics.apply(x, weights)
    extents = (shape[0], *shape[2:])
    places = spatial(average.view(extents), maximum.view(extents)).to(x.dtype)
    return native_gates.gate(x, weights, places.flatten(1)).view(shape)


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
