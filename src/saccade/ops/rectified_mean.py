"""Means weighted by rectified sums, y_i = mean_j relu(a_i + b_j) g_j, in O(N log N) instead of O(N^2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.chunks import is_small


def rectified_mean(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Return y_i = 1/M sum_j relu(a_i + b_j) g_j.

    With b sorted, the nonzero terms of i are the last ones: M y_i = a_i G_p + H_p, where G_p and H_p are the
    sums of g_j and of b_j g_j from an index p on, which a binary search finds. Values and gradients are those
    of the formula, in time O((N + M) (C + log M)) and memory O((N + M) C):

        dL/dg_j = 1/M sum_i relu(a_i + b_j) dy_i        the same form, with a and b exchanged
        dL/da_i = 1/M dy_i . sum_{j: a_i + b_j > 0} g_j        dL/db_j = 1/M g_j . sum_{i: a_i + b_j > 0} dy_i

    Sums run in float64, because a_i G_p and H_p may nearly cancel; in float32 on MPS, which has no float64.
    On the CPU, up to about a million terms are computed by the formula.

    Args:
        a: Row terms, (B, N).
        b: Column terms, (B, M).
        g: Values, (B, M, C).

    Returns:
        Weighted means, (B, N, C).

    Example:
        >>> import torch
        >>> a, b, g = torch.randn(2, 5), torch.randn(2, 7), torch.randn(2, 7, 3)
        >>> expected = torch.relu(a[:, :, None] + b[:, None]) @ g / 7
        >>> torch.allclose(rectified_mean(a, b, g), expected, atol=1e-5)
        True
    """
    if is_small(a.numel() * b.shape[1], a):
        return torch.relu(a[:, :, None] + b[:, None]) @ g / b.shape[1]
    result: Tensor = _RectifiedMean.apply(a, b, g)
    return result


class _RectifiedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, g)
        a, b, values = _exact(a, b, g)
        return (_rectified_sum(a, b, values) / b.shape[1]).to(g.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        a, b, g, dy = _exact(*saved, *gradients)
        dy = dy / b.shape[1]
        da, db = (dy * _active_sum(a, b, g)).sum(-1), (g * _active_sum(b, a, dy)).sum(-1)
        results = da, db, _rectified_sum(b, a, dy)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(results, saved, strict=True))


def _exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return tuple(x.to(dtype) for x in tensors)


def _rectified_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Return sum_j relu(a_i + b_j) g_j."""
    return a.unsqueeze(-1) * _active_sum(a, b, g) + _active_sum(a, b, b.unsqueeze(-1) * g)


def _active_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Return the sum of g_j over all j with a_i + b_j > 0, (B, N, C).

    The sum is a difference of running sums, so that NaN, which is sorted last, reaches every result.
    """
    b, order = b.detach().sort(dim=-1)
    # The first index with b_j > -a_i selects the same pairs as the backward pass, which sorts a.
    first = torch.searchsorted(b, -a.detach(), right=True)
    width = g.shape[2]
    ordered = g.gather(1, order.unsqueeze(-1).expand(-1, -1, width))
    running = F.pad(ordered.cumsum(1), (0, 0, 1, 0))
    return running[:, -1:] - running.gather(1, first.unsqueeze(-1).expand(-1, -1, width))
