"""Convolution with other weights at every position, without unfolded windows in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.eager import is_eager


def local_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Return y_cp = sum_t w_gtp x_c,p+t with g = c mod G, where t runs over a k x k window around p.

    Values outside the map are 0. Forward and backward passes go through the k^2 offsets one by one, so that
    neither windows nor products of all offsets are held.

    Args:
        x: Features, (B, C, H, W).
        weight: Weights, (B, G, k^2, H, W), for a divisor G of C and an odd k; offsets in row-major order.

    Returns:
        Weighted sums, (B, C, H, W).

    Example:
        >>> import torch
        >>> x, w = torch.ones(1, 4, 3, 3), torch.ones(1, 2, 9, 3, 3)
        >>> local_convolution(x, w)[0, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    groups = x.unflatten(1, (-1, weight.shape[1]))
    if is_eager():
        result: Tensor = _LocalConvolution.apply(groups, weight)
        return result.flatten(1, 2)
    padded, taps = _pad(groups, weight), _windows(weight)
    y = torch.stack([padded[window] * weight[:, None, :, t] for t, window in taps]).sum(0)
    return y.flatten(1, 2)


class _LocalConvolution(torch.autograd.Function):
    """The sum for features (B, C / G, G, H, W)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        padded, y = _pad(x, weight), torch.zeros_like(x)
        for t, window in _windows(weight):
            y.addcmul_(padded[window], weight[:, None, :, t])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        padded, d_weight = _pad(x, weight), torch.empty_like(weight)
        d_padded = torch.zeros_like(padded)
        for t, window in _windows(weight):
            d_weight[:, :, t] = (dy * padded[window]).sum(1)
            d_padded[window].addcmul_(dy, weight[:, None, :, t])
        k = _size(weight)
        return d_padded[_window(weight, k // 2, k // 2)], d_weight


def _size(weight: Tensor) -> int:
    return math.isqrt(weight.shape[2])


def _pad(x: Tensor, weight: Tensor) -> Tensor:
    return F.pad(x, [_size(weight) // 2] * 4)


def _windows(weight: Tensor) -> Iterator[tuple[int, Any]]:
    """Yield the number of each offset and the part of the padded map that it selects."""
    k = _size(weight)
    return ((t, _window(weight, t // k, t % k)) for t in range(k * k))


def _window(weight: Tensor, row: int, column: int) -> Any:
    height, width = weight.shape[-2:]
    return ..., slice(row, row + height), slice(column, column + width)
