"""Attention of each position to the row and the column that it is in, without a tensor of all pairs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from saccade.ops.chunks import is_small


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return at each position the mean of the values in its row and column, weighted by softmax(q^T k).

    The softmax runs over H + W - 1 positions: the query's own position counts once, in the row. Columns and
    rows are computed separately and joined by their log-sum-exp. The backward pass computes the weights again
    instead of keeping them. Memory grows with H W max(H, W); products of queries and keys have at least
    float32 precision. On the CPU, up to about a million weights are kept, which is faster.

    Args:
        query: Queries q, (B, D, H, W).
        key: Keys k, (B, D, H, W).
        value: Values, (B, E, H, W).

    Returns:
        Weighted means of the values, (B, E, H, W).

    Example:
        >>> import torch
        >>> zeros, value = torch.zeros(1, 1, 2, 2), torch.tensor([[[[3.0, 0.0], [6.0, 100.0]]]])
        >>> round(criss_cross_attention(zeros, zeros, value)[0, 0, 0, 0].item(), 4)  # 100 is in neither line
        3.0
    """
    if is_small(query[:, 0].numel() * sum(query.shape[2:]), query):
        return _formula(query, key, value)
    result: Tensor = _CrissCross.apply(query, key, value)
    return result


def _formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Join the logits of columns and rows before the softmax."""
    q, k, v = (x.permute(0, 2, 3, 1) for x in (query, key, value))
    height, width = q.shape[1:3]
    itself = torch.eye(height, dtype=torch.bool, device=q.device)
    of_column = (q.transpose(1, 2) @ k.transpose(1, 2).mT).masked_fill(itself, float("-inf"))
    weights = torch.cat([of_column.transpose(1, 2), q @ k.mT], 3).softmax(3)
    columns, rows = weights.split([height, width], 3)
    by_column = (columns.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2)
    return _channels_first(by_column + rows @ v, value)


class _CrissCross(torch.autograd.Function):
    """The sums over rows and columns, of maps with channels last: a row of (B, H, W, D) is a matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with _no_autocast(query):
            q, k, v = (_channels_last(x) for x in (query, key, value))
            rows, columns = _logits(q, k)
            normalizer = torch.logaddexp(rows.logsumexp(-1), columns.logsumexp(-1).mT)
            by_row = _weights(rows, normalizer).to(v.dtype) @ v
            by_column = _weights(columns, normalizer.mT).to(v.dtype) @ v.transpose(1, 2)
            output = _channels_first(by_row.add_(by_column.transpose(1, 2)), value)
        ctx.save_for_backward(q, k, v, output, normalizer)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, output, normalizer = ctx.saved_tensors
        with _no_autocast(q):
            rows, columns = _logits(q, k)
            mean = (gradients[0].to(rows.dtype) * output).sum(1)
            dy = _channels_last(gradients[0])
            d_row = _backward(_weights(rows, normalizer), q, k, v, dy, mean)
            lines = (x.transpose(1, 2) for x in (q, k, v, dy, mean))
            d_column = _backward(_weights(columns, normalizer.mT), *lines)
            totals = [a.add_(b.transpose(1, 2)) for a, b in zip(d_row, d_column, strict=True)]
        return tuple(_channels_first(d.to(x.dtype), output) for d, x in zip(totals, (q, k, v), strict=True))


def _no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Keep logits in float32: autocast would compute their products in half precision."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if device != "meta" else nullcontext()


def _logits(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits in rows, (B, H, W, W), and in columns, (B, W, H, H), for q and k (B, H, W, D).

    A query's own position counts in its row. In its column it has the smallest finite logit: -inf alone, in a
    column of height 1, would give NaN.
    """
    q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
    columns = q.transpose(1, 2) @ k.transpose(1, 2).mT
    itself = torch.eye(columns.shape[-1], dtype=torch.bool, device=columns.device)
    return q @ k.mT, columns.masked_fill_(itself, torch.finfo(columns.dtype).min)


def _weights(logits: Tensor, normalizer: Tensor) -> Tensor:
    return logits.sub_(normalizer.unsqueeze(-1)).exp_()


def _backward(
    weights: Tensor, q: Tensor, k: Tensor, v: Tensor, dy: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v in one direction, from the gradient dy of the output."""
    dtype = weights.dtype
    d_logits = (dy @ v.mT).to(dtype).sub_(mean.unsqueeze(-1)).mul_(weights)
    return d_logits @ k.to(dtype), d_logits.mT @ q.to(dtype), weights.to(v.dtype).mT @ dy


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _channels_first(x: Tensor, like: Tensor) -> Tensor:
    """Return x, (B, H, W, D), as (B, D, H, W) in the memory format of `like`."""
    x = x.permute(0, 3, 1, 2)
    return x.contiguous() if like.is_contiguous() else x
