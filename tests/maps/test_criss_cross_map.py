"""The map of criss-cross attention: rows, the mean over queries, heads, and no tensor of all pairs."""

from __future__ import annotations

import pytest
import torch

import saccade as sc
from saccade.maps import CrissCrossMap, attention_rollout
from support.errors import raises
from support.parity import Largest, normal


def pairs(height: int, width: int) -> CrissCrossMap:
    queries, keys = normal(2, 3, height * width, 4), normal(2, 3, height * width, 4, seed=1)
    return CrissCrossMap(queries, keys, 0.7, (height, width), (height, width), (height, width))


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("head", [None, 2])
def test_relevance_is_distributed_by_the_weights(shape: tuple[int, int], head: int | None) -> None:
    attention = pairs(*shape)
    weights = attention.weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    relevance = normal(2, shape[0] * shape[1], seed=2)
    one = weights.mean(1) if head is None else weights[:, head]
    expected = torch.einsum("bq,bqk->bk", relevance, one)
    torch.testing.assert_close(attention.propagate(relevance, head), expected)
    torch.testing.assert_close(
        attention.attention_received(head), one.mean(1).reshape(2, *shape), rtol=1e-9, atol=1e-12
    )


def test_the_mean_needs_no_tensor_of_all_pairs() -> None:
    attention, largest = pairs(24, 20), Largest()  # type: ignore[no-untyped-call]
    with largest:
        attention.attention_received()
    assert largest.elements == 2 * 3 * 24 * 20 * 24


def test_rows_of_queries_need_their_positions() -> None:
    attention = pairs(4, 5)
    with raises(sc.BadOption, owner="CrissCrossMap", option="queries"):
        attention.rows(attention.queries)


def test_rollout_follows_the_weights() -> None:
    attention = pairs(4, 5)
    step = (attention.weights().mean(1) + torch.eye(20, dtype=torch.float64)) / 2
    expected = (step @ step).mean(1).reshape(2, 4, 5)
    torch.testing.assert_close(attention_rollout([attention, attention]).weights, expected)
