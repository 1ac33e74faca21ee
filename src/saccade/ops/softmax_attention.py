"""Softmax attention of tokens whose values may be wider or narrower than their queries, in O(N) memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.chunks import chunks

_CHUNK = 1 << 22  # weights held at a time in the backward pass


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v with memory that grows with Nq + Nk, not with Nq * Nk.

    q (B, Nq, D), k (B, Nk, D), v (B, Nk, E) -> (B, Nq, E).

    This is torch's fused attention, with two shortcomings of its CPU form made good. It needs D = E, or it
    silently builds all weights: zeros at the end of q and k leave their products alone, and those at
    the end of v are cut off again. And its backward pass runs heads in parallel, of which there is one
    here: ours runs a few queries at a time through matrix products, which use all cores.

    >>> import torch
    >>> q, k, v = torch.randn(1, 6, 4), torch.randn(1, 5, 4), torch.randn(1, 5, 20)
    >>> expected = (0.5 * q @ k.mT).softmax(-1) @ v
    >>> torch.allclose(softmax_attention(q, k, v, 0.5), expected, atol=1e-5)
    True
    """
    if query.device.type != "cpu":
        return _fused(query, key, value, scale)
    result: Tensor = _OnCPU.apply(query, key, value, scale)
    return result


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    # The last axis must be contiguous, or again all weights are built.
    q, k, v = (x.contiguous().unsqueeze(1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)


class _OnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        width = max(query.shape[-1], value.shape[-1])
        q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
        output = _fused(q, k, v, scale)[..., : value.shape[-1]].contiguous()
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
        # Made before the loop: small results kept from each turn would splinter the memory that it reuses.
        found = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        d_query, d_key, d_value = found
        with torch.autocast("cpu", enabled=False):  # which would mix dtypes in sums in place
            for part in chunks(query, key[..., 0], _CHUNK):
                weights = (query[:, part] @ key.mT).softmax(-1)
                d_value.baddbmm_(weights.mT, dy[:, part])
                d_scores = torch.baddbmm(-mean[:, part], dy[:, part], value.mT).mul_(weights)
                d_query[:, part] = d_scores @ key * ctx.scale
                d_key.baddbmm_(d_scores.mT, query[:, part])
        return *(gradient.to(x.dtype) for gradient, x in zip(found, saved, strict=True)), None
