"""The map of neighborhood attention: rows, relevance, rollout, and no tensor of all pairs."""

from __future__ import annotations

import pytest
import torch

import saccade as sc
from saccade.maps import NeighborhoodMap, attention_rollout
from support.errors import raises
from support.parity import Largest, normal


def pairs(height: int, width: int, size: int = 3, dilation: int = 1) -> NeighborhoodMap:
    queries, keys = normal(2, 3, height * width, 4), normal(2, 3, height * width, 4, seed=1)
    grid = (height, width)
    return NeighborhoodMap(queries, keys, 0.7, grid, grid, grid, size, dilation)


@pytest.mark.parametrize(
    "attention", [pairs(4, 5), pairs(1, 5), pairs(5, 2, 4), pairs(6, 7, 2, 3), pairs(1, 1)], ids=str
)
@pytest.mark.parametrize("head", [None, 2])
def test_relevance_is_distributed_by_the_weights(attention: NeighborhoodMap, head: int | None) -> None:
    weights = attention.weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    relevance = normal(2, weights.shape[2], seed=2)
    one = weights.mean(1) if head is None else weights[:, head]
    expected = torch.einsum("bq,bqk->bk", relevance, one)
    torch.testing.assert_close(attention.propagate(relevance, head), expected)


def test_the_mean_needs_no_tensor_of_all_pairs() -> None:
    attention, largest = pairs(48, 40), Largest()  # type: ignore[no-untyped-call]
    with largest:
        attention.attention_received()
    assert largest.elements == 2 * 3 * 48 * 40 * 9 * 4


def test_rows_of_queries_need_their_positions() -> None:
    attention = pairs(4, 5)
    with raises(sc.BadOption, owner="NeighborhoodMap", option="queries"):
        attention.rows(attention.queries)


def test_rollout_follows_the_weights() -> None:
    attention = pairs(4, 5)
    step = (attention.weights().mean(1) + torch.eye(20, dtype=torch.float64)) / 2
    expected = (step @ step).mean(1).reshape(2, 4, 5)
    torch.testing.assert_close(attention_rollout([attention, attention]).weights, expected)
