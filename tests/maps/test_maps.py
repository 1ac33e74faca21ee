"""Attention maps: heat maps, rows and means of pairs, and what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade import BadShape, BranchMap, ChannelMap, PairwiseMap, SpatialMap
from saccade.maps import AdditiveMap, DotProductMap, RectifiedSumMap, normalize
from support.errors import raises

SHAPES = ((5,), (3, 4), (2, 3, 4))  # of a sequence, an image, a clip


def pairs(
    query_shape: tuple[int, ...], key_shape: tuple[int, ...], *, heads: int = 2, batch: int = 2
) -> PairwiseMap:
    generator = torch.Generator().manual_seed(0)

    def factor(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(batch, heads, torch.Size(shape).numel(), 4, generator=generator)

    return PairwiseMap(factor(query_shape), factor(key_shape), 0.5, query_shape, key_shape)


# Heat maps.


def test_a_heat_map_is_scaled_to_one_image_by_image() -> None:
    weights = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[-10.0, 0.0], [10.0, -10.0]]])
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [1.0, 0.0]]])
    assert torch.equal(SpatialMap(weights).heatmap(), expected)


def test_a_heat_map_of_channels_is_the_energy_that_they_let_through() -> None:
    weights = torch.tensor([[1.0, 0.5, 0.0]])
    features = torch.tensor([[[[1.0, -2.0]], [[0.0, 4.0]], [[100.0, -7.0]]]])  # (1, 3, 1, 2)
    recorded = ChannelMap.of(weights, features)
    assert torch.equal(recorded.energy, torch.tensor([[[1.0, 4.0]]]))  # 1*1 + 0.5*0, 1*2 + 0.5*4
    assert torch.equal(recorded.heatmap(), torch.tensor([[[0.0, 1.0]]]))


def test_a_heat_map_of_branches_is_the_energy_that_they_let_through() -> None:
    weights = torch.tensor([[[1.0, 0.25], [0.0, 0.75]]], requires_grad=True)
    near, far = torch.tensor([[[1.0, -2.0], [4.0, 0.0]]]), torch.tensor([[[9.0, 9.0], [-8.0, 4.0]]])
    recorded = BranchMap.of(weights, [near, far])
    # 1*1 + 0.25*4 + 0*9 + 0.75*8, 1*2 + 0.25*0 + 0*9 + 0.75*4
    assert torch.equal(recorded.energy, torch.tensor([[8.0, 5.0]]))
    assert torch.equal(recorded.heatmap(), torch.tensor([[1.0, 0.0]]))
    assert not recorded.weights.requires_grad


def test_a_map_that_is_the_same_everywhere_is_drawn_as_zeros() -> None:
    flat = torch.stack([torch.full((3, 4), 0.3), torch.arange(12.0).reshape(3, 4)])
    heat = SpatialMap(flat).heatmap()
    assert torch.equal(heat[0], torch.zeros(3, 4))
    assert heat[1].max().item() == 1  # its neighbor in the batch is drawn as ever
    assert torch.equal(SpatialMap(torch.full((1, 1, 1), 7.0)).heatmap((2, 2)), torch.zeros(1, 2, 2))


def test_resizing_comes_before_scaling_and_averages_neighbors() -> None:
    heat = SpatialMap(torch.tensor([[[0.0, 1.0]]])).heatmap((1, 4))
    # Half-pixel centers: the four samples lie at -0.25, 0.25, 0.75 and 1.25 of the two pixels.
    torch.testing.assert_close(heat, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))
    middle = SpatialMap(torch.tensor([[[0.0, 1.0, 0.0]]])).heatmap((1, 2))
    assert torch.equal(middle, torch.zeros(1, 1, 2))  # resized to (0.25, 0.25), which is flat


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_heat_maps_have_one_to_three_axes(shape: tuple[int, ...]) -> None:
    attention = SpatialMap(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert attention.heatmap().shape == (2, *shape)
    size = tuple(2 * extent + 1 for extent in shape)
    heat = attention.heatmap(size)
    assert heat.shape == (2, *size)
    assert heat.flatten(1).amin(1).tolist() == [0, 0]
    assert heat.flatten(1).amax(1).tolist() == [1, 1]
    assert pairs(shape, shape).heatmap(size).shape == (2, *size)
    with raises(BadShape, owner="SpatialMap", option="size", value=(*size, 1)):
        attention.heatmap((*size, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_heat_maps_are_float32_whatever_was_recorded(dtype: torch.dtype) -> None:
    heat = SpatialMap(torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype)).heatmap()
    assert heat.dtype is torch.float32
    assert heat.tolist() == [[0, 0.5, 1]]


def test_maps_do_not_hold_on_to_the_graph() -> None:
    weights = torch.rand(1, 3, requires_grad=True)
    recorded = ChannelMap.of(weights, torch.rand(1, 3, 2, 2, requires_grad=True))
    assert not recorded.weights.requires_grad
    assert not recorded.energy.requires_grad
    assert not SpatialMap(torch.rand(1, 2, 2, requires_grad=True)).heatmap().requires_grad


def test_any_batch_is_normalized_image_by_image() -> None:
    images = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.equal(normalize(images[:, None, None])[:, 0, 0], expected)
    assert normalize(images.double()).dtype is torch.float64


# Pairs.


def test_weights_are_the_softmax_over_keys() -> None:
    queries = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    keys = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]])
    recorded = PairwiseMap(queries, keys, 1.0, (2,), (3,))
    e = torch.e
    first, second = [e, 1, e], [1, e**2, e**2]
    expected = torch.tensor([[w / sum(first) for w in first], [w / sum(second) for w in second]])
    torch.testing.assert_close(recorded.weights(), expected[None, None])
    torch.testing.assert_close(recorded.attention_from(x=1), expected[None, 1])
    torch.testing.assert_close(recorded.attention_received(), expected.mean(0)[None])


@pytest.mark.parametrize(("query_shape", "key_shape"), [*zip(SHAPES, SHAPES, strict=True), ((3, 4), (2, 5))])
def test_rows_and_means_are_those_of_all_weights(
    query_shape: tuple[int, ...], key_shape: tuple[int, ...]
) -> None:
    recorded = pairs(query_shape, key_shape)
    weights = recorded.weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    torch.testing.assert_close(recorded.attention_received(), weights.mean((1, 2)).reshape(2, *key_shape))
    torch.testing.assert_close(
        recorded.attention_received(head=1), weights[:, 1].mean(1).reshape(2, *key_shape)
    )
    torch.testing.assert_close(recorded.attention_received().flatten(1).sum(1), torch.ones(2))
    names = ("t", "y", "x")[-len(query_shape) :]
    for index, position in enumerate(itertools.product(*map(range, query_shape))):
        place: dict[str, Any] = dict(zip(names, position, strict=True))
        torch.testing.assert_close(
            recorded.attention_from(**place), weights[:, :, index].mean(1).reshape(2, *key_shape)
        )
        torch.testing.assert_close(
            recorded.attention_from(**place, head=0), weights[:, 0, index].reshape(2, *key_shape)
        )


@pytest.mark.parametrize("chunk", [1, 7 * 24, 24 * 24, 10**9])
def test_the_mean_does_not_depend_on_how_many_rows_are_held(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = pairs((4, 6), (4, 6), heads=1, batch=1)
    expected = recorded.weights().mean((1, 2)).reshape(1, 4, 6)
    chunk_sizes: list[int] = []
    rows = PairwiseMap.rows

    def counted(self: PairwiseMap, queries: Tensor) -> Tensor:
        chunk_sizes.append(queries.shape[2])
        return rows(self, queries)

    monkeypatch.setattr("saccade.maps.pairwise.CHUNK", chunk)
    monkeypatch.setattr(PairwiseMap, "rows", counted)
    torch.testing.assert_close(recorded.attention_received(), expected)
    assert sum(chunk_sizes) == 24
    assert max(chunk_sizes) == min(24, max(1, chunk // 24))


def test_half_precision_factors_are_multiplied_in_float32() -> None:
    exact = pairs((3, 4), (3, 4))
    halves = (exact.queries.half(), exact.keys.half())
    recorded = PairwiseMap(*halves, exact.scale, (3, 4), (3, 4))
    assert recorded.weights().dtype is torch.float32
    rounded = PairwiseMap(halves[0].float(), halves[1].float(), exact.scale, (3, 4), (3, 4))
    assert torch.equal(recorded.weights(), rounded.weights())
    large = PairwiseMap(halves[0] * 1000, halves[1] * 1000, 1.0, (3, 4), (3, 4))
    assert large.attention_received().isfinite().all()


@pytest.mark.parametrize("chunk", [1, 7 * 24, 10**9])
@pytest.mark.parametrize("kind", [DotProductMap, RectifiedSumMap, AdditiveMap])
def test_means_of_other_weights_do_not_depend_on_how_many_rows_are_held(
    kind: type[PairwiseMap], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax = pairs((4, 6), (3, 2))
    direction: dict[str, Any] = {"direction": torch.ones(2, 4)} if kind is AdditiveMap else {}
    width = 1 if kind is RectifiedSumMap else 4
    factors = softmax.queries[..., :width], softmax.keys[..., :width]
    recorded = kind(*factors, 0.5, (4, 6), (3, 2), **direction)
    weights = recorded.weights()
    assert recorded.sums_to_one == torch.allclose(weights.sum(-1), torch.ones(2, 2, 24))
    monkeypatch.setattr("saccade.maps.pairwise.CHUNK", chunk)
    torch.testing.assert_close(recorded.attention_received(), weights.mean((1, 2)).reshape(2, 3, 2))
    torch.testing.assert_close(recorded.attention_from(y=2, x=5, head=1), weights[:, 1, 17].reshape(2, 3, 2))


def test_weights_agree_with_the_fused_attention() -> None:
    recorded = pairs((3, 4), (3, 4))
    values = torch.randn(2, 2, 12, 4)
    fused = F.scaled_dot_product_attention(recorded.queries, recorded.keys, values, scale=recorded.scale)
    torch.testing.assert_close(recorded.weights() @ values, fused)


@pytest.mark.parametrize(
    ("shape", "place", "option"),
    [
        ((3, 4), {"y": 3, "x": 0}, "y"),
        ((3, 4), {"y": 0, "x": 4}, "x"),
        ((3, 4), {"y": -1, "x": 0}, "y"),
        ((3, 4), {"x": 0}, "position"),
        ((3, 4), {}, "position"),
        ((3, 4), {"t": 0, "y": 0, "x": 0}, "position"),
        ((5,), {"y": 0, "x": 0}, "position"),
        ((2, 3, 4), {"y": 0, "x": 0}, "position"),
        ((3, 4), {"y": 0, "x": 0, "head": 2}, "head"),
        ((3, 4), {"y": 0, "x": 0, "head": -1}, "head"),
    ],
    ids=str,
)
def test_positions_that_do_not_exist_are_refused(
    shape: tuple[int, ...], place: dict[str, int], option: str
) -> None:
    value = place if option == "position" else place[option]
    with raises(BadShape, owner="PairwiseMap", option=option, value=value):
        pairs(shape, shape).attention_from(**place)


def test_a_head_that_does_not_exist_is_refused() -> None:
    with raises(BadShape, owner="PairwiseMap", option="head", value=5):
        pairs((3,), (3,)).attention_received(head=5)
