"""Attention in chunks of queries whose weights the backward pass computes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from saccade.ops.chunks import chunks
from saccade.ops.eager import is_eager

CHUNK = 1 << 21  # weights held at a time


def attend_in_chunks(
    attend: Callable[..., Tensor], queries: Sequence[Tensor], others: Sequence[Tensor], row: Tensor
) -> Tensor:
    """Return attend(*queries, *others), computed for a few queries at a time.

    Memory grows with the number of queries and of keys, not with their product, also for logits with any
    bias, for which torch has no fused attention.

    Args:
        attend: Function of queries and others, to results (B, heads, n, D).
        queries: Tensors that are split along axis 2, (..., N, D).
        others: Tensors that every query needs.
        row: A tensor with as many elements as one query has weights for all images.

    Returns:
        Results, (B, heads, N, D).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 2, 50, 4).unbind()
        >>> def attend(q, k, v):
        ...     return (q @ k.mT).softmax(-1) @ v
        >>> torch.allclose(attend_in_chunks(attend, [q], [k, v], k[..., 0]), attend(q, k, v), atol=1e-5)
        True
    """
    first = chunks(queries[0], row, CHUNK)[0]
    if first.stop >= queries[0].shape[2]:
        return attend(*queries, *others)
    parts = zip(*(x.split(first.stop, dim=2) for x in queries), strict=True)  # split: one node for gradients
    return torch.cat([recompute(attend, *part, *others) for part in parts], 2)


def recompute(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), of which the backward pass keeps the inputs alone.

    Under compilation, export or tracing, the function is called as it is.

    Example:
        >>> import torch
        >>> recompute(torch.exp, torch.zeros(2))
        tensor([1., 1.])
    """
    if not (is_eager() and torch.is_grad_enabled()):
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
