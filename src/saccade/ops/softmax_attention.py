"""Softmax attention with values of another width than the queries, in O(N) memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.chunks import chunks, is_precise, is_small
from saccade.ops.eager import is_eager

_CHUNK = 1 << 21  # weights held at a time
_ROWS = 256  # the least queries of a chunk: products of few rows read keys and values too often
_UNROLLED = 1 << 22  # the same in a compiled graph, which unrolls the loop


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v in memory O(Nq + Nk) instead of O(Nq * Nk).

    The function wraps the fused attention of torch and avoids two limitations of its CPU implementation:

    - For D != E it silently builds all weights. This function processes chunks of queries or, in half
      precision and in a compiled graph, fills the narrower tensors with zeros.
    - Its backward pass is parallel over heads, and there is only one head here. The backward pass of this
      function processes chunks of queries with matrix products, which use all cores.

    On the CPU, up to about a million weights in all are kept for the backward pass, which is then faster.

    Args:
        query: Queries, (B, Nq, D).
        key: Keys, (B, Nk, D).
        value: Values, (B, Nk, E).
        scale: Factor of the logits.

    Returns:
        Weighted means of the values, (B, Nq, E).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(1, 6, 4), torch.randn(1, 5, 4), torch.randn(1, 5, 20)
        >>> expected = (0.5 * q @ k.mT).softmax(-1) @ v
        >>> torch.allclose(softmax_attention(q, k, v, 0.5), expected, atol=1e-5)
        True
    """
    if query.device.type != "cpu":
        return _fused(query, key, value, scale)
    if is_small(query.shape[0] * query.shape[1] * key.shape[1], query):
        return (scale * query @ key.mT).softmax(-1) @ value
    result: Tensor = _OnCPU.apply(query, key, value, scale)
    return result


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    # Unless the last axis is contiguous, torch builds all weights.
    q, k, v = (x.contiguous().unsqueeze(1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)


def _limit(key: Tensor) -> int:
    """Return the number of weights held at a time."""
    return max(_CHUNK, _ROWS * key[..., 0].numel())


class _OnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        width = max(query.shape[-1], value.shape[-1])
        if query.shape[-1] == value.shape[-1] or not is_precise(query):
            q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
            output = _fused(q, k, v, scale)[..., : value.shape[-1]].contiguous()
        else:
            output = value.new_empty(*query.shape[:2], value.shape[-1])
            for chunk in chunks(query, key[..., 0], _limit(key)):
                output[:, chunk] = (scale * query[:, chunk] @ key.mT).softmax(-1) @ value
        ctx.save_for_backward(query, key, value, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors[:3]
        dtype = torch.promote_types(saved[0].dtype, torch.float32)
        query, key, value, output, dy = (x.to(dtype) for x in (*ctx.saved_tensors, *gradients))
        query = query * ctx.scale
        mean = (dy * output).sum(-1, keepdim=True)
        # Allocated before the loop: small results kept from each pass would fragment the memory it reuses.
        results = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        d_query, d_key, d_value = results
        with torch.autocast("cpu", enabled=False):  # autocast would mix dtypes in the in-place sums
            for chunk in chunks(query, key[..., 0], _limit(key) if is_eager() else _UNROLLED):
                weights = (query[:, chunk] @ key.mT).softmax(-1)
                d_value.baddbmm_(weights.mT, dy[:, chunk])
                d_scores = torch.baddbmm(-mean[:, chunk], dy[:, chunk], value.mT).mul_(weights)
                d_query[:, chunk] = d_scores @ key * ctx.scale
                d_key.baddbmm_(d_scores.mT, query[:, chunk])
        return *(gradient.to(x.dtype) for gradient, x in zip(results, saved, strict=True)), None
