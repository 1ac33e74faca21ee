"""Additive attention, Bahdanau et al. 2015."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade.layers.pairwise.scaled_dot_product import checked_sequences
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import AdditiveMap, Tap
from saccade.ops.additive_scores import additive_scores, additive_scores_backward
from saccade.ops.choice import choose
from saccade.ops.chunks import chunks

_CHUNK = 1 << 22  # values held at a time


def additive(query: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    """Return sum_j softmax_j(v^T tanh(q_i + k_j)) v_j for each head, with v the direction and v_j a value.

    Chunks of queries are processed at a time, and again in the backward pass: memory grows with Lq + Lk, time
    with Lq Lk D. Under compilation the loop is unrolled, and memory grows with Lq Lk D / 64.

    Args:
        query: Projected queries q, (B, Lq, heads, D).
        key: Projected keys k, (B, Lk, heads, D).
        value: Values, (B, Lk, heads, D).
        direction: Weight v of each hidden unit, (D,).

    Returns:
        Weighted means of the values, (B, Lq, heads, D).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(2, 5, 3, 16), torch.randn(2, 7, 3, 16), torch.randn(16)
        >>> additive(q, k, k, v).shape
        torch.Size([2, 5, 3, 16])
    """
    q, k, values = (x.transpose(1, 2) for x in (query, key, value))
    work = q.numel() * k.shape[2]
    whole = q.contiguous()  # the loops take no other form
    native = choose("additive_scores", whole, k, direction, work=work, has_kernel=False) == "native"
    result: Tensor = _Additive.apply(whole if native else q, k, values, direction, native)
    return result.transpose(1, 2)


class _Additive(torch.autograd.Function):
    """Attention of (B, heads, L, D) tensors that saves nothing of size Lq x Lk."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, direction: Tensor, native: bool
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, direction)
        ctx.native = native
        q, k, v, w = (x.to(_dtype(query)) for x in (query, key, value, direction))
        output = torch.empty_like(q)
        for chunk in _chunks(q, k, native):
            output[:, :, chunk] = additive_scores(q[:, :, chunk], k, w, native).softmax(-1) @ v
        return output.to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, native = ctx.saved_tensors, ctx.native and not torch.is_grad_enabled()
        q, k, v, w, dy = (x.to(_dtype(saved[0])) for x in (*saved, *gradients))
        # Allocated before the loop: small results kept from each pass would fragment the memory it reuses.
        d_query, d_key, d_value, d_direction = results = [torch.zeros_like(x) for x in (q, k, v, w)]
        for chunk in _chunks(q, k, native):
            weights = additive_scores(q[:, :, chunk], k, w, native).softmax(-1)
            d_weights = dy[:, :, chunk] @ v.mT
            # Through the softmax, (B, heads, n, Lk), then through tanh, (B, heads, n, Lk, D).
            d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
            of_query, of_key, of_direction = additive_scores_backward(d_scores, q[:, :, chunk], k, w, native)
            d_query[:, :, chunk] = of_query
            d_key += of_key
            d_value += weights.mT @ dy[:, :, chunk]
            d_direction += of_direction
        typed = (gradient.to(x.dtype) for gradient, x in zip(results, saved, strict=True))
        return *typed, None


def _chunks(query: Tensor, key: Tensor, native: bool) -> list[slice]:
    """Split the queries. The loops hold one value for each pair, not one for each of its hidden units."""
    return chunks(query, key[..., 0] if native else key, _CHUNK)


def _dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of internal sums: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


class Additive(nn.Module):
    """Additive attention between two sequences: a small network scores each pair of query and key.

        e_ij = v^T tanh(W_q q_i + W_k k_j)        y_i = sum_j softmax_j(e_ij) v_j

    q_i is a query, k_j a key and v_j its value, W_q is `query`, W_k is `key`, v is `direction`, e_ij the
    score and y_i the output. The hidden layer has `channels` units and is shared by all heads; the softmax
    runs over the keys. In the paper q is the state s_{i-1}, k = v is the annotation h_j, W_q is W_a, W_k is
    U_a and v is v_a. W_q and W_k are initialized from N(0, 0.001^2) and v with 0, as in the paper (B.1), so
    that initially all keys have equal weights. The recorded map holds the weights (B, heads, Lq, Lk) as
    factors; heads are numbered from 0.

    References:
        Bahdanau, Cho, Bengio: Neural Machine Translation by Jointly Learning to Align and Translate, ICLR
        2015 (appendix A.1.2).

    Args:
        channels: Width D of queries, keys, values and the hidden layer.

    Shape:
        - Query: (B, Lq, heads, D).
        - Key: (B, Lk, heads, D); by default, the query.
        - Value: (B, Lk, heads, D); by default, the key.
        - Output: (B, Lq, heads, D).

    Raises:
        BadShape: If inputs differ in width, heads or batch size, or keys and values differ in length.

    Note:
        The paper has one head, and queries and keys of different widths. Here they have the same width.

    Example:
        >>> import torch
        >>> attention = Additive(256)
        >>> attention(torch.randn(4, 32, 1, 256), torch.randn(4, 16, 1, 256)).shape
        torch.Size([4, 32, 1, 256])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.direction = nn.Parameter(torch.zeros(channels))
        self.tap = Tap()
        nn.init.normal_(self.query.weight, std=0.001)
        nn.init.normal_(self.key.weight, std=0.001)

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        query, key, value = checked_sequences("additive", self.channels, query, key, value)
        q, k = self.query(query), self.key(key)
        if self.tap.recording:
            queries, keys = q.detach().transpose(1, 2), k.detach().transpose(1, 2)
            direction = self.direction.detach().expand(query.shape[0], -1)
            shapes = (query.shape[1],), (key.shape[1],)
            self.tap.publish(AdditiveMap(queries, keys, 1.0, *shapes, direction))
        return additive(q, k, value, self.direction)


SPEC = Spec(
    name="additive",
    domain="pairwise",
    paper=Paper(
        "Neural Machine Translation by Jointly Learning to Align and Translate",
        "Bahdanau, Cho, Bengio",
        2015,
        "https://arxiv.org/abs/1409.0473",
    ),
    summary="mix values by the softmax of a small network's score of each pair",
    module=Additive,
    function=additive,
    examples=(Example("B Q h C, B K h C, B K h C"), Example("B L h C")),
    maps=(AdditiveMap,),
    unit="item",
    flow="[[query -> W_q | key -> W_k] -> sum, tanh -> v -> softmax over keys | value] -> weighted sum -> y",
)
