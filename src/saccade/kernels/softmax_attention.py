"""Fused softmax attention of values that are wider or narrower than the queries."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

_GROUP = 64  # channels of v per head on the CPU: its backward pass runs heads, not queries, in parallel


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v with memory that grows with Nq + Nk, not with Nq * Nk.

    q (B, Nq, D), k (B, Nk, D), v (B, Nk, E) -> (B, Nq, E).

    torch's fused attention on the CPU needs D = E, or it silently builds the Nq x Nk matrix. Zeros at the
    end of q and k leave their products alone, and zeros at the end of v can be cut off again; so widths
    are padded, and wide values are split into several heads that share q and k.

    >>> import torch
    >>> q, k, v = torch.randn(1, 6, 4), torch.randn(1, 5, 4), torch.randn(1, 5, 200)
    >>> expected = (0.5 * q @ k.mT).softmax(-1) @ v
    >>> torch.allclose(softmax_attention(q, k, v, 0.5), expected, atol=1e-5)
    True
    """
    q, k, v = (x.unsqueeze(1) for x in (query, key, value))
    inner, outer = q.shape[-1], v.shape[-1]
    if inner != outer and q.device.type == "cpu":
        width = max(inner, min(outer, _GROUP))
        heads = -(-outer // width)
        q, k = (F.pad(x, (0, width - inner)).expand(-1, heads, -1, -1) for x in (q, k))
        v = F.pad(v, (0, heads * width - outer)).unflatten(-1, (heads, width)).squeeze(1).transpose(1, 2)
    # The last axis contiguous, or again the matrix is built.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return attended.transpose(1, 2).flatten(2)[..., :outer]
