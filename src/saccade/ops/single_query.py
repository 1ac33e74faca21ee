"""Multi-head attention with one query per image, without keys and values in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.ops.precision import no_autocast


def single_query(
    query: Tensor,
    tokens: Tensor,
    key: tuple[Tensor, Tensor | None],
    value: tuple[Tensor, Tensor | None],
    heads: int,
) -> tuple[Tensor, Tensor]:
    """Return sum_n a_n (W_v x_n + b_v) and a_n = softmax_n(q . (W_k x_n + b_k) / sqrt(D)) of each head.

    One query needs no keys and values: q . W_k x_n = (W_k^T q) . x_n, and the values are projected after they
    are summed. The cost is O(N C heads + C^2) instead of O(N C^2), and no projection of the tokens is kept
    for the backward pass. The softmax has at least float32 precision.

    Args:
        query: Projected queries q, (B, C), in heads of D = C / heads channels.
        tokens: Tokens x, (B, N, C).
        key: W_k, (C, C), and b_k, (C,), or None for no bias.
        value: W_v, (C, C), and b_v, (C,), or None for no bias.
        heads: Number of heads, a divisor of C.

    Returns:
        Weighted means of the values, (B, C), and weights, (B, heads, N).

    Example:
        >>> import torch
        >>> q, x, w = torch.randn(2, 8), torch.randn(2, 5, 8), torch.randn(8, 8)
        >>> pooled, weights = single_query(q, x, (w, None), (w, None), heads=2)
        >>> pooled.shape, weights.sum(-1).allclose(torch.ones(2, 2))
        (torch.Size([2, 8]), True)
    """
    dtype = tokens.dtype
    (w_key, b_key), (w_value, b_value) = key, value
    q = query.unflatten(-1, (heads, -1)).to(dtype)
    q = q * q.shape[-1] ** -0.5
    with no_autocast(tokens):
        folded = torch.einsum("bhd,hdc->bhc", q, w_key.unflatten(0, (heads, -1)).to(dtype))
        logits = folded @ tokens.mT
        if b_key is not None:
            logits = logits + (q * b_key.unflatten(0, (heads, -1)).to(dtype)).sum(-1, keepdim=True)
        weights = logits.to(torch.promote_types(dtype, torch.float32)).softmax(-1)
        means = weights.to(dtype) @ tokens
        pooled = torch.einsum("bhc,hdc->bhd", means, w_value.unflatten(0, (heads, -1)).to(dtype)).flatten(1)
        return (pooled if b_value is None else pooled + b_value.to(dtype)), weights
