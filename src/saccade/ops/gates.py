"""Products with gates and the pooling functions of gates, with memory-efficient backward passes.

A gate needs little arithmetic; the cost of its plain backward pass is the allocation of large temporary
tensors. These functions have the values and gradients of their formulas. Under compilation, export or
tracing, they are the plain formulas. Elsewhere they run as native loops on the CPU, or as Triton kernels on
a GPU, where `saccade.ops.choice` finds it faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saccade.maps import ChannelMap, Tap
from saccade.ops import compiled_gates, plain_gates
from saccade.ops.choice import choose
from saccade.ops.eager import is_compiling, is_eager


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
    if is_eager() and torch.is_grad_enabled():
        rows = _rows(x, gate) if x.requires_grad else 0
        of_channels = gate.shape[:2] == x.shape[:2] and rows == x.shape[0] * x.shape[1]
        missing = "" if rows else "one product needs no loop"
        if choose("scale", x, gate, strided=of_channels, missing=missing) != "plain":
            from saccade.ops import native_gates

            maps = x.flatten(2) if of_channels else x.reshape(1, rows, -1)
            y: Tensor = native_gates.scale(maps, gate.reshape(maps.shape[:2]))
            return y.view_as(x)
    return plain_gates.scale(x, gate)


def gate_by_pools(
    x: Tensor,
    channel: Callable[[Tensor, Tensor], Tensor] | None = None,
    spatial: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return x scaled by a gate of its channels, and the result by a gate of its positions.

        x' = s x,   s = channel(mean_p x, max_p x)        y = g x',   g = spatial(mean_c x', max_c x')

    The native and the Triton form read x three times, keep neither x' nor a product of the size
    of x, and in the backward pass add all gradients of x in one tensor.

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
    if choose("gate_by_pools", x) != "plain":
        return _gate_by_pools(x.flatten(2), x.shape, channel, spatial)
    if channel is not None:
        weights = channel(*plain_gates.mean_and_maximum(x.flatten(2), 2))
        weights = weights.reshape(*weights.shape, *[1] * (x.ndim - 2))
        if spatial is not None and is_compiling():
            return x * weights * spatial(*compiled_gates.channel_statistics(x, weights))
        x = plain_gates.scale(x, weights)
    return x if spatial is None else plain_gates.scale(x, spatial(*plain_gates.mean_and_maximum(x, 1)))


def gate_by_means(x: Tensor, channel: Callable[[Tensor], Tensor], tap: Tap) -> Tensor:
    """Return x with its channels scaled by a gate of their means. A recording tap publishes the gate.

        y = s x,   s = channel(mean_p x)

    Args:
        x: Features, (B, C, ...).
        channel: Function from the means over positions, (B, C), to the weights s, (B, C).
        tap: Tap of the mechanism.
    """

    def publish(average: Tensor) -> Tensor:
        gate = channel(average)
        if tap.recording:
            tap.publish(ChannelMap.of(gate, x))
        return gate

    if choose("gate_by_means", x) == "plain":
        gate = publish(plain_gates.mean(x.flatten(2)))
        return plain_gates.scale(x, gate.reshape(*gate.shape, *[1] * (x.ndim - 2)))
    from saccade.ops import gate_gradients

    parts = gate_gradients.Parts()
    entry, again = gate_gradients.Entry.apply(x.flatten(2), parts)
    weights = publish(gate_gradients.PlaceMean.apply(entry, parts))
    y: Tensor = gate_gradients.Gate.apply(entry, again, weights.to(x.dtype), None, parts)
    return y.view_as(x)


def scale_rows_and_columns(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows * columns * x. The other forms keep no product.

    Args:
        x: Features, (B, C, H, W).
        rows: Weights, (B, C, H, 1).
        columns: Weights, (B, C, 1, W).

    Example:
        >>> import torch
        >>> rows, columns = torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[[[1.0, 10.0]]]])
        >>> scale_rows_and_columns(torch.ones(1, 1, 2, 2), rows, columns).tolist()
        [[[[1.0, 10.0], [2.0, 20.0]]]]
    """
    if choose("scale_rows_and_columns", x, rows, columns, strided=False) == "plain":
        return plain_gates.scale(plain_gates.scale(x, columns), rows)
    from saccade.ops import native_gates

    weights = (gate.squeeze(dim).flatten(0, 1) for gate, dim in ((rows, 3), (columns, 2)))
    y: Tensor = native_gates.gate(x.flatten(0, 1), *weights)
    return y.view_as(x)


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
    return plain_gates.mean(x)


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
    missing = "" if dim in (1, x.ndim - 1) else "it has no loop for the axis"
    if choose("mean_and_maximum", x, missing=missing) != "plain":
        from saccade.ops import native_gates

        if dim == x.ndim - 1:
            average, maximum, _ = native_gates.place_statistics(
                x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
            )
            return average.view(x.shape[:-1]), maximum.view(x.shape[:-1])
        average, maximum, _ = native_gates.channel_statistics(x.flatten(2), x.new_ones(x.shape[:2]))
        return average.view_as(x[:, 0]), maximum.view_as(x[:, 0])
    return plain_gates.mean_and_maximum(x, dim)


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


def _rows(x: Tensor, gate: Tensor) -> int:
    """Return the number of rows of x that have one weight each, or 0 if the gate has another form."""
    if x.ndim != gate.ndim:
        return 0
    axes = next((i for i in range(x.ndim) if gate.shape[i:].numel() == 1), x.ndim)
    return math.prod(x.shape[:axes]) if axes < x.ndim and gate.shape[:axes] == x.shape[:axes] else 0


def _gate_by_pools(
    x: Tensor,
    shape: torch.Size,
    channel: Callable[[Tensor, Tensor], Tensor] | None,
    spatial: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:
    """The other forms, for maps (B, C, P)."""
    from saccade.ops import gate_gradients

    parts = gate_gradients.Parts()
    x, again = gate_gradients.Entry.apply(x, parts)
    weights, places = x.new_ones(x.shape[:2]), None
    if channel is not None:
        average, maximum, _ = gate_gradients.PlaceStatistics.apply(x, parts)
        weights = channel(average, maximum).to(x.dtype)
    if spatial is not None:
        average, maximum, _ = gate_gradients.ChannelStatistics.apply(x, weights, parts)
        extents = (shape[0], *shape[2:])
        places = spatial(average.view(extents), maximum.view(extents)).to(x.dtype).flatten(1)
    y: Tensor = gate_gradients.Gate.apply(x, again, weights, places, parts)
    return y.view(shape)
