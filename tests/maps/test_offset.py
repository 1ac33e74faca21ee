"""The map of weights that depend on the offset: rows, means, heads, and no tensor of all pairs."""

from __future__ import annotations

import pytest
import torch

import saccade as sc
from saccade.maps import OffsetMap
from support.errors import raises
from support.parity import Largest, normal


def pairs(height: int, width: int, h: int = 3, w: int = 3) -> OffsetMap:
    queries, keys = normal(2, 3, height * width, 4), normal(2, 3, height * width, 4, seed=1)
    grid = (height, width)
    return OffsetMap(queries, keys, 0.7, grid, grid, offsets=normal(2, 3, 4, h, w, seed=2))


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (5, 3), (1, 7)], ids=str)
def test_weights_are_those_of_the_formula(shape: tuple[int, int], window: tuple[int, int]) -> None:
    attention, (height, width), (h, w) = pairs(*shape, *window), shape, window
    weights = attention.weights().unflatten(3, shape).unflatten(2, shape)
    for y in range(height):
        for x in range(width):
            for i in range(height):
                for j in range(width):
                    vector = attention.keys[:, :, i * width + j]
                    if abs(i - y) <= h // 2 and abs(j - x) <= w // 2:
                        vector = vector + attention.offsets[..., i - y + h // 2, j - x + w // 2]
                    expected = 0.7 * (attention.queries[:, :, y * width + x] * vector).sum(2)
                    torch.testing.assert_close(weights[:, :, y, x, i, j], expected)
            torch.testing.assert_close(attention.attention_from(y=y, x=x, head=1), weights[:, 1, y, x])


@pytest.mark.parametrize("window", [(3, 3), (1, 5), (7, 9)], ids=str)
@pytest.mark.parametrize("head", [None, 2])
def test_relevance_is_distributed_by_the_weights(head: int | None, window: tuple[int, int]) -> None:
    attention = pairs(4, 5, *window)
    weights, relevance = attention.weights(), normal(2, 20, seed=3)
    one = weights.mean(1) if head is None else weights[:, head]
    expected = torch.einsum("bq,bqk->bk", relevance, one)
    torch.testing.assert_close(attention.propagate(relevance, head), expected)


def test_the_mean_needs_no_tensor_of_all_pairs() -> None:
    attention, largest = pairs(24, 20), Largest()  # type: ignore[no-untyped-call]
    with largest:
        attention.attention_received()
    assert largest.elements <= 2 * 3 * 26 * 22 * 9


def test_rows_of_queries_need_their_positions() -> None:
    attention = pairs(4, 5)
    with raises(sc.BadOption, owner="OffsetMap", option="queries"):
        attention.rows(attention.queries)
