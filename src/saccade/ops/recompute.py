"""Attention in chunks of queries whose weights the backward pass computes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saccade.ops.chunks import chunks
from saccade.ops.eager import is_eager
from saccade.ops.precision import no_autocast

CHUNK = 1 << 21  # weights held at a time
_FEW = 1 << 22  # weights up to which all are held


def attend_in_chunks(
    attend: Callable[..., Tensor], queries: Sequence[Tensor], others: Sequence[Tensor], row: Tensor
) -> Tensor:
    """Return attend(0, *queries, *others), computed for a few queries at a time.

    Memory grows with the number of queries and of keys, not with their product, also for logits with any
    bias, for which torch has no fused attention. The backward pass computes each chunk again. Autocast is
    off.

    Args:
        attend: Function of the index of the first query, of queries and of others, to results (B, heads, n,
            ...).
        queries: Tensors that are split along axis 2, of N queries.
        others: Tensors that every query needs.
        row: A tensor with as many elements as one query has weights for all images.

    Returns:
        Results, (B, heads, N, ...).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 2, 50, 4).unbind()
        >>> def attend(start, q, k, v):
        ...     return (q @ k.mT).softmax(-1) @ v
        >>> torch.allclose(attend_in_chunks(attend, [q], [k, v], k[..., 0]), attend(0, q, k, v), atol=1e-5)
        True
    """
    is_few = is_eager() and row.numel() * queries[0].shape[2] <= _FEW
    step = chunks(queries[0].transpose(2, -2), row, _FEW if is_few else CHUNK)[0].stop
    with no_autocast(queries[0]):
        if step >= queries[0].shape[2]:
            return attend(0, *queries, *others)
        if is_eager():
            result: Tensor = _InChunks.apply(attend, step, len(queries), *queries, *others)
            return result
        parts = zip(*(x.split(step, dim=2) for x in queries), strict=True)
        return torch.cat([attend(i * step, *part, *others) for i, part in enumerate(parts)], 2)


class _InChunks(torch.autograd.Function):
    """Results and gradients are allocated before the loops.

    Small results that are kept from each pass would fragment the memory that the weights reuse.
    """

    @staticmethod
    def forward(ctx: Any, attend: Callable[..., Tensor], step: int, count: int, *tensors: Tensor) -> Tensor:
        ctx.attend, ctx.step, ctx.count = attend, step, count
        ctx.save_for_backward(*tensors)
        length = tensors[0].shape[2]
        output = tensors[0].new_empty(0)
        for start in range(0, length, step):
            part = attend(start, *_chunk(tensors, start, step, count))
            if start == 0:
                shape = (*part.shape[:2], length, *part.shape[3:])
                output = part.new_empty(shape)
            output[:, :, start : start + step] = part
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors, step, count = ctx.saved_tensors, ctx.step, ctx.count
        results = [torch.zeros_like(x) for x in tensors]
        for start in range(0, tensors[0].shape[2], step):
            chunk = [x.detach().requires_grad_() for x in _chunk(tensors, start, step, count)]
            with torch.enable_grad(), no_autocast(chunk[0]):
                part = ctx.attend(start, *chunk)
            of_chunk = _chunk(results, start, step, count)
            d_part = gradients[0][:, :, start : start + step]
            d_chunk = torch.autograd.grad(part, chunk, d_part, allow_unused=True)
            for total, gradient in zip(of_chunk, d_chunk, strict=True):
                if gradient is not None:
                    total.add_(gradient)
        return None, None, None, *results


def _chunk(tensors: Sequence[Tensor], start: int, step: int, count: int) -> list[Tensor]:
    """Return the tensors, the first `count` of them with a few queries alone."""
    return [x[:, :, start : start + step] if i < count else x for i, x in enumerate(tensors)]
