"""single_query equals torch's attention of one query, with keys and values in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.single_query import single_query
from support.parity import assert_close, normal


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_torch(heads: int, biased: bool) -> None:
    inputs = [normal(2, 8), normal(2, 5, 8, seed=1), normal(8, 8, seed=2), normal(8, 8, seed=3)]
    inputs += [normal(8, seed=4), normal(8, seed=5)] if biased else []
    leaves = [x.requires_grad_() for x in inputs]
    query, tokens, w_key, w_value, *biases = leaves
    b_key, b_value = biases or (None, None)

    def split(x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        return parts

    key, value = F.linear(tokens, w_key, b_key), F.linear(tokens, w_value, b_value)
    q, k, v = map(split, (query[:, None], key, value))
    expected = F.scaled_dot_product_attention(q, k, v).flatten(1)
    pooled, weights = single_query(query, tokens, (w_key, b_key), (w_value, b_value), heads)
    assert_close("pooled", pooled, expected)
    assert_close("sums", weights.sum(-1), torch.ones(2, heads).double())
    got = torch.autograd.grad(pooled.square().sum(), leaves)
    for a, b in zip(got, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        assert_close("a gradient", a, b, floor=1.0)
