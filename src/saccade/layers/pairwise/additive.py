"""Additive attention, Bahdanau et al. 2015."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import AdditiveMap, Tap
from saccade.ops.chunks import chunks

_CHUNK = 1 << 22  # numbers tanh(q_i + k_j)_d held at a time


def additive(query: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    """Return softmax_j(v^T tanh(q_i + k_j)) times the values, for every head; v is `direction` (D,).

    q (B, Lq, heads, D) and k (B, Lk, heads, D), already projected, values (B, Lk, heads, D)
    -> (B, Lq, heads, D).

    A few queries at a time, in the backward pass again: memory grows with Lq + Lk, time with Lq Lk D.
    (Compiled, with Lq Lk D / 64, for there the loop is unrolled.)

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
        for part in chunks(query, key, _CHUNK):
            output[:, :, part] = _weights(_tanh(q[:, :, part], k), w) @ v
        return output.to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        q, k, v, w, dy = (x.to(_dtype(saved[0])) for x in (*saved, *gradients))
        # Made before the loop: small results kept from each turn would splinter the memory that it reuses.
        d_query, d_key, d_value, d_direction = found = [torch.zeros_like(x) for x in (q, k, v, w)]
        for part in chunks(q, k, _CHUNK):
            tanh = _tanh(q[:, :, part], k)
            weights = _weights(tanh, w)
            d_weights = dy[:, :, part] @ v.mT
            # (B, heads, n, Lk): through the softmax, then (B, heads, n, Lk, D): through the tanh
            d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
            slope = (1 - tanh * tanh) * d_scores.unsqueeze(-1)
            d_query[:, :, part] = slope.sum(3) * w
            d_key += slope.sum(2) * w
            d_value += weights.mT @ dy[:, :, part]
            d_direction += torch.einsum("bhijd,bhij->d", tanh, d_scores)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(found, saved, strict=True))


def _dtype(x: Tensor) -> torch.dtype:
    """Of the sums inside: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def _tanh(query: Tensor, key: Tensor) -> Tensor:
    """(B, heads, n, D) and (B, heads, Lk, D) -> (B, heads, n, Lk, D)."""
    return torch.tanh(query.to(key.dtype).unsqueeze(3) + key.unsqueeze(2))


def _weights(tanh: Tensor, direction: Tensor) -> Tensor:
    return (tanh @ direction).softmax(-1).to(tanh.dtype)


class Additive(nn.Module):
    """Additive attention between two sequences: a small network scores each pair of query and key.

        e_ij = v^T tanh(W_q q_i + W_k k_j)        y_i = sum_j softmax_j(e_ij) v_j

    Bahdanau, Cho, Bengio: Neural Machine Translation by Jointly Learning to Align and Translate, ICLR
    2015 (appendix A.1.2, where q is the state s_{i-1}, k = v the annotation h_j, W_q W_a, W_k U_a and
    v v_a). W_q `query`, W_k `key`, v `direction`, of `channels` hidden units and shared by all heads;
    the softmax runs over the keys. W_q, W_k start as N(0, 0.001^2) and v as 0, as in the paper (B.1): at
    the start all keys weigh the same.

    query (B, Lq, heads, D), key and value (B, Lk, heads, D), D `channels` -> (B, Lq, heads, D). `key` is
    the query and `value` the key unless given. The recorded map holds the weights (B, heads, Lq, Lk) as
    factors.

    Deviation: the paper has one head, queries and keys of different widths; here they share one width.

    Raises `BadShape` if widths, heads, batches or the lengths of key and value differ.

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
        key = query if key is None else key
        value = key if value is None else value
        check_shape("additive", query, "B Lq heads D", D=self.channels)
        batch, _, heads, _ = query.shape
        same = {"B": batch, "heads": heads, "D": self.channels}
        check_shape("additive", key, "B Lk heads D", **same)
        check_shape("additive", value, "B Lk heads D", Lk=key.shape[1], **same)
        q, k = self.query(query), self.key(key)
        if self.tap.recording:
            queries, keys = q.detach().transpose(1, 2), k.detach().transpose(1, 2)
            direction = self.direction.detach().expand(batch, -1)
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
