"""ge equals its formula for every extent, and timm's GatherExcite where that one runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.layers.gather_excite import GatherExcite
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, relu, sigmoid

C = 6


def nearest(x: Tensor, size: torch.Size) -> Tensor:
    (height, width), (rows, columns) = x.shape[2:], size
    y = torch.tensor([i * height // rows for i in range(rows)])
    return x[:, :, y][..., torch.tensor([j * width // columns for j in range(columns)])]


def means(x: Tensor, extent: int) -> Tensor:
    """The mean of the positions closer than the extent to each position of a coarse grid."""
    height, width = x.shape[2:]
    grid = []
    for y in range(0, height, extent):
        row = []
        for z in range(0, width, extent):
            window = x[:, :, max(0, y - extent + 1) : y + extent, max(0, z - extent + 1) : z + extent]
            row.append(window.sum((2, 3)) / (window.shape[2] * window.shape[3]))
        grid.append(torch.stack(row, -1))
    return torch.stack(grid, -2)


def depthwise(weight: Tensor, x: Tensor) -> Tensor:
    """A 3 x 3 convolution of stride 2, as a sum over its taps."""
    height, width = x.shape[2:]
    padded = F.pad(x, [1] * 4)
    return torch.stack(
        [
            weight[:, 0, i, j, None, None] * padded[:, :, i : i + height : 2, j : j + width : 2]
            for i in range(3)
            for j in range(3)
        ]
    ).sum(0)


def convolutions(norm: BatchNorms, p: Parameters, x: Tensor, extent: int) -> Tensor:
    count = int(math.log2(extent))
    for i in range(count):
        x = norm(p, f"gather.{3 * i + 1}", depthwise(p[f"gather.{3 * i}.weight"], x))
        x = relu(x) if i < count - 1 else x
    return x


SHAPES = [(2, C, 8, 8), (3, C, 7, 5), (2, C, 1, 9), (2, C, 1, 1)]


@pytest.mark.parametrize("extent", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [*SHAPES, (1, C, 7, 5)], ids=str)
def test_means_equal_the_formula(shape: tuple[int, ...], extent: int) -> None:
    def plain(_: Parameters, x: Tensor) -> Tensor:
        return x * sigmoid(nearest(means(x, extent), x.shape[2:]))

    assert_parity(build("ge", C, extent=extent), plain, normal(*shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_global_mean_equals_the_formula(shape: tuple[int, ...]) -> None:
    module = build("ge", C)
    assert not module.state_dict()
    assert_parity(module, lambda _, x: x * sigmoid(x.mean((2, 3), keepdim=True)), normal(*shape))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolutions_equal_the_formula(shape: tuple[int, ...], extent: int, training: bool) -> None:
    module, x = build("ge", C, extent=extent, parameters=True), normal(*shape)
    module(normal(4, C, 12, 12, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))

    def plain(p: Parameters, x: Tensor) -> Tensor:
        return x * sigmoid(nearest(convolutions(norm, p, x, extent), x.shape[2:]))

    assert_parity(module, plain, x)
    if training:
        norm.assert_running()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(7, 5), 4])
def test_the_global_convolution_equals_the_formula(size: Any, training: bool) -> None:
    module = build("ge", C, parameters=True, size=size).train(training)
    norm = BatchNorms(module)

    def plain(p: Parameters, x: Tensor) -> Tensor:
        z = torch.einsum("bchw,chw->bc", x, p["gather.0.weight"][:, 0])
        return x * sigmoid(norm(p, "gather.1", z))[:, :, None, None]

    assert_parity(module, plain, normal(3, C, *(size if isinstance(size, tuple) else (size, size))))


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
@pytest.mark.parametrize("shape", [(2, C, 16, 16), (1, C, 7, 5), (2, C, 3, 11)], ids=str)
def test_equals_timm(shape: tuple[int, ...], extent: int) -> None:
    """Without parameters; timm's module with parameters cannot be built."""
    theirs = GatherExcite(C, extent=extent, use_mlp=False).double()
    assert_parity(build("ge", C, extent=extent), lambda _, x: theirs(x), normal(*shape))


def test_channels_do_not_mix() -> None:
    module, x = build("ge", C, extent=4, parameters=True).eval(), normal(2, C, 9, 7)
    other = x.clone()
    other[:, 0] *= 7
    assert_close("other channels", module(other)[:, 1:], module(x)[:, 1:])


def test_layers_are_those_of_the_authors() -> None:
    norm = [(C,), (C,)]
    shapes = [tuple(p.shape) for p in sc.create("ge", C, extent=8, parameters=True).parameters()]
    assert shapes == [(C, 1, 3, 3), *norm] * 3
    shapes = [tuple(p.shape) for p in sc.create("ge", C, parameters=True, size=(7, 5)).parameters()]
    assert shapes == [(C, 1, 7, 5), *norm]


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, C, 24, 20)
    assert largest_tensor(sc.create("ge", C, extent=4), x) == x.numel()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"extent": 1}, "extent"),
        ({"extent": -2}, "extent"),
        ({"extent": 2.0}, "extent"),
        ({"extent": 6, "parameters": True}, "extent"),
        ({"parameters": True, "size": None}, "size"),
        ({"size": 7}, "size"),
        ({"extent": 2, "parameters": True, "size": 7}, "size"),
        ({"parameters": True, "size": (7, 7, 7)}, "size"),
        ({"parameters": True, "size": 0}, "size"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="ge", option=option, value=options[option]):
        sc.create("ge", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ge", option="shape", value=shape):
        sc.create("ge", C)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"parameters": True, "size": (7, 5)}, (2, C, 5, 7)),
        ({"parameters": True, "size": (7, 5)}, (1, C, 7, 5)),
        ({"parameters": True, "extent": 4}, (1, C, 4, 3)),
    ],
    ids=str,
)
def test_maps_that_cannot_be_gathered_are_refused(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ge", option="shape", value=shape):
        sc.create("ge", C, **options)(torch.zeros(shape))


def test_one_image_is_trained_where_two_positions_are_gathered() -> None:
    assert sc.create("ge", C, extent=4, parameters=True)(torch.randn(1, C, 5, 1)).isfinite().all()


def test_recorded_weights_of_the_extent_0_are_the_gate() -> None:
    module, x = build("ge", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    assert_close("weights", recorded.weights, (y / x)[:, :, 0, 0])


def test_recorded_weights_of_an_extent_are_the_mean_over_channels() -> None:
    module, x = build("ge", C, extent=2), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1))
