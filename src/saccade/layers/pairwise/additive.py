"""Additive attention, Bahdanau et al. 2015."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade.layers.pairwise.scaled_dot_product import checked_sequences
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import AdditiveMap, Tap
from saccade.ops.chunks import chunks

_CHUNK = 1 << 22  # values tanh(q_i + k_j)_d held at a time


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
    result: Tensor = _Additive.apply(q, k, values, direction)
    return result.transpose(1, 2)


class _Additive(torch.autograd.Function):
    """Attention of (B, heads, L, D) tensors that saves nothing of size Lq x Lk."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, direction)
        q, k, v, w = (x.to(_dtype(query)) for x in (query, key, value, direction))
        output = torch.empty_like(q)
        for chunk in chunks(query, key, _CHUNK):
            output[:, :, chunk] = _weights(_tanh(q[:, :, chunk], k), w) @ v
        return output.to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        q, k, v, w, dy = (x.to(_dtype(saved[0])) for x in (*saved, *gradients))
        # Allocated before the loop: small results kept from each pass would fragment the memory it reuses.
        d_query, d_key, d_value, d_direction = results = [torch.zeros_like(x) for x in (q, k, v, w)]
        for chunk in chunks(q, k, _CHUNK):
            tanh = _tanh(q[:, :, chunk], k)
            weights = _weights(tanh, w)
            d_weights = dy[:, :, chunk] @ v.mT
            # Through the softmax, (B, heads, n, Lk), then through tanh, (B, heads, n, Lk, D).
            d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
            slope = (1 - tanh * tanh) * d_scores.unsqueeze(-1)
            d_query[:, :, chunk] = slope.sum(3) * w
            d_key += slope.sum(2) * w
            d_value += weights.mT @ dy[:, :, chunk]
            d_direction += torch.einsum("bhijd,bhij->d", tanh, d_scores)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(results, saved, strict=True))


def _dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of internal sums: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def _tanh(query: Tensor, key: Tensor) -> Tensor:
    """Return tanh(q_i + k_j): (B, heads, n, D) and (B, heads, Lk, D) -> (B, heads, n, Lk, D)."""
    return torch.tanh(query.to(key.dtype).unsqueeze(3) + key.unsqueeze(2))


def _weights(tanh: Tensor, direction: Tensor) -> Tensor:
    return (tanh @ direction).softmax(-1).to(tanh.dtype)


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
