"""Means weighted by rectified sums, y_i = mean_j relu(a_i + b_j) g_j, in O(N log N) instead of O(N^2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rectified_mean(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Return y_i = 1/M sum_j relu(a_i + b_j) g_j. a (B, N), b (B, M), g (B, M, C) -> (B, N, C).

    With b sorted, the terms of i that are not zero are the last ones: M y_i = a_i G_p + H_p, where G and H
    are the sums of g and of b g from a place p on, which a binary search finds. Values and gradients are
    those of the formula, in time O((N + M) (C + log M)) and memory O((N + M) C):

        dL/dg_j = 1/M sum_i relu(a_i + b_j) dy_i        of the same form, a and b exchanged
        dL/da_i = 1/M dy_i . sum_{j: a_i + b_j > 0} g_j        dL/db_j = 1/M g_j . sum_{i: a_i + b_j > 0} dy_i

    Sums run in float64 (float32 on MPS, which has no other), because a_i G_p and H_p may nearly cancel.

    >>> import torch
    >>> a, b, g = torch.randn(2, 5), torch.randn(2, 7), torch.randn(2, 7, 3)
    >>> expected = torch.relu(a[:, :, None] + b[:, None]) @ g / 7
    >>> torch.allclose(rectified_mean(a, b, g), expected, atol=1e-5)
    True
    """
    result: Tensor = _RectifiedMean.apply(a, b, g)
    return result


class _RectifiedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        y, active = _sums(a, b, g)
        # A sum over keys, unlike a mean, may overflow half precision.
        ctx.save_for_backward(a, b, g, active.to(torch.promote_types(g.dtype, torch.float32)))
        return (y / b.shape[1]).to(g.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, g, active = ctx.saved_tensors
        dy = gradients[0].to(active.dtype) / b.shape[1]
        dg, active_dy = _sums(b, a, dy)
        da, db = (dy * active).sum(-1), (g * active_dy).sum(-1)
        return da.to(a.dtype), db.to(b.dtype), dg.to(g.dtype)


def _sums(a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_j relu(a_i + b_j) g_j and sum_{j: a_i + b_j > 0} g_j, both (B, N, C) and exact."""
    exact = torch.float32 if g.device.type == "mps" else torch.float64
    a, b, g = a.to(exact), b.to(exact), g.to(exact)
    b, order = b.sort(dim=-1)
    g = g.gather(1, order.unsqueeze(-1).expand_as(g))
    # The first place p with b_p > -a_i: exactly the pairs that the backward pass, searching a, finds active.
    places = torch.searchsorted(b, -a, right=True)
    active = _from(places, g)
    return a.unsqueeze(-1) * active + _from(places, b.unsqueeze(-1) * g), active


def _from(places: Tensor, values: Tensor) -> Tensor:
    """Return the sums of values (B, M, C) from each of the places (B, N) on: (B, N, C).

    They are differences of running sums, so that NaN, which sorts last, reaches every result.
    """
    running = F.pad(values.cumsum(1), (0, 0, 1, 0))
    before = running.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[2]))
    return running[:, -1:] - before
