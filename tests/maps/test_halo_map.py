"""The map of halo attention: rows, the mean over queries, heads, and no tensor of all pairs."""

from __future__ import annotations

import pytest
import torch

import saccade as sc
from saccade.maps import HaloMap
from support.errors import raises
from support.parity import Largest, normal


def pairs(height: int, width: int, block: int = 2, halo: int = 1) -> HaloMap:
    count, window = height * width, block + 2 * halo
    queries, keys = normal(2, 3, count, 4), normal(2, 3, count, 4, seed=1)
    logits = normal(2, 3, count, window, seed=2), normal(2, 3, count, window, seed=3)
    return HaloMap(queries, keys, 0.7, (height, width), (height, width), *logits, block, halo)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4), (3, 5)], ids=str)
@pytest.mark.parametrize(("block", "halo"), [(2, 1), (2, 0), (1, 2)])
def test_weights_are_those_of_the_formula(shape: tuple[int, int], block: int, halo: int) -> None:
    attention, (height, width) = pairs(*shape, block, halo), shape
    weights = attention.weights().unflatten(3, shape).unflatten(2, shape)
    for y in range(height):
        for x in range(width):
            top, left = y // block * block - halo, x // block * block - halo
            query = y * width + x
            expected, total = torch.zeros(2, 3, *shape).double(), torch.zeros(2, 3).double()
            for i in range(block + 2 * halo):
                for j in range(block + 2 * halo):
                    inside = 0 <= top + i < height and 0 <= left + j < width
                    logit = attention.row_logits[:, :, query, i] + attention.column_logits[:, :, query, j]
                    if inside:
                        key = attention.keys[:, :, (top + i) * width + left + j]
                        logit = logit + 0.7 * (attention.queries[:, :, query] * key).sum(2)
                        expected[:, :, top + i, left + j] = logit.exp()
                    total += logit.exp()
            torch.testing.assert_close(weights[:, :, y, x], expected / total[..., None, None])


@pytest.mark.parametrize("head", [None, 2])
def test_relevance_is_distributed_by_the_weights(head: int | None) -> None:
    attention = pairs(4, 6)
    weights, relevance = attention.weights(), normal(2, 24, seed=4)
    one = weights.mean(1) if head is None else weights[:, head]
    expected = torch.einsum("bq,bqk->bk", relevance, one)
    torch.testing.assert_close(attention.propagate(relevance, head), expected)


def test_the_mean_needs_no_tensor_of_all_pairs() -> None:
    attention, largest = pairs(48, 40), Largest()  # type: ignore[no-untyped-call]
    with largest:
        attention.attention_received()
    assert largest.elements <= 2 * 3 * 48 * 40 * 16 * 4 < 2 * 3 * (48 * 40) ** 2


def test_rows_of_queries_need_their_positions() -> None:
    attention = pairs(4, 6)
    with raises(sc.BadOption, owner="HaloMap", option="queries"):
        attention.rows(attention.queries)
