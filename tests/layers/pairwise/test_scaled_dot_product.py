"""scaled_dot_product equals equation 1 of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.layers.pairwise.scaled_dot_product import scaled_dot_product
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

D = 16


def plain_weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """(B, heads, Lq, Lk), softmax over the keys."""
    scores = scale * torch.einsum("bqhd,bkhd->bhqk", query, key)
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def plain(_: Parameters, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bhqk,bkhd->bqhd", plain_weights(query, key, 1 / math.sqrt(D)), value)


def test_equals_the_formula() -> None:
    query, key, value = normal(2, 5, 3, D), normal(2, 7, 3, D, seed=1), normal(2, 7, 3, D, seed=2)
    module = build("scaled_dot_product", D)
    assert_parity(module, plain, query, key, value)
    assert_parity(module, lambda p, q, k: plain(p, q, k, k), query, key)
    assert_parity(module, lambda p, q: plain(p, q, q, q), query)


def test_the_scale_can_be_chosen() -> None:
    query, key = normal(2, 5, 3, D), normal(2, 7, 3, D, seed=1)
    expected = torch.einsum("bhqk,bkhd->bqhd", plain_weights(query, key, 0.7), key)
    assert_close("scale=0.7", scaled_dot_product(query, key, key, scale=0.7), expected)


def test_recorded_weights_equal_the_formula() -> None:
    query, key = normal(2, 5, 3, D), normal(2, 7, 3, D, seed=1)
    module = build("scaled_dot_product", D)
    with sc.record(module) as maps:
        module(query, key)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert_close("weights", recorded.weights(), plain_weights(query, key, D**-0.5))


def test_shapes_of_the_catalog() -> None:
    query, key = torch.randn(128, 32, 1, 256), torch.randn(128, 16, 1, 256)
    module = sc.create("scaled_dot_product", 256)
    with sc.record(module) as maps:
        assert module(query, key).shape == query.shape
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert recorded.weights().shape == (128, 1, 32, 16)


@pytest.mark.parametrize(
    ("query", "key", "value", "wrong"),
    [
        ((2, 5, 3, D), (2, 7, 4, D), (2, 7, 4, D), "key"),
        ((2, 5, 3, D), (3, 7, 3, D), (3, 7, 3, D), "key"),
        ((2, 5, 3, D), (2, 7, 3, D), (2, 6, 3, D), "value"),
        ((2, 5, 3, D), (2, 7, 3, D), (2, 7, 3, 8), "value"),
    ],
    ids=["heads", "batch", "length of value", "width of value"],
)
def test_sizes_that_differ_are_refused(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], wrong: str
) -> None:
    shape = {"query": query, "key": key, "value": value}[wrong]
    with raises(sc.BadShape, owner="scaled_dot_product", option="shape", value=shape):
        sc.create("scaled_dot_product", D)(torch.zeros(query), torch.zeros(key), torch.zeros(value))
