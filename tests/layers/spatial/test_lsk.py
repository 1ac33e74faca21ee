"""lsk equals its formula: convolutions of torch, and the choice written place by place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

C = 6


def plain(p: Parameters, x: Tensor) -> Tensor:
    def conv(name: str, z: Tensor, **options: int) -> Tensor:
        return F.conv2d(z, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    near = conv("conv0", x, padding=2, groups=C)
    far = conv("conv_spatial", near, padding=9, groups=C, dilation=3)
    both = [conv("conv1", near), conv("conv2", far)]
    rows = []
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            values = torch.cat([u[:, :, i, j] for u in both], 1)
            rows.append(torch.stack([values.sum(1) / values.shape[1], values.max(1).values], 1))
    pooled = torch.stack(rows, 2).reshape(x.shape[0], 2, *x.shape[2:])
    mask = 1 / (1 + torch.exp(-conv("conv_squeeze", pooled, padding=3)))
    chosen = both[0] * mask[:, :1] + both[1] * mask[:, 1:]
    return x * conv("conv", chosen)


@pytest.mark.parametrize("shape", [(2, C, 7, 5), (1, C, 1, 1), (1, C, 24, 9)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...]) -> None:
    assert_parity(build("lsk", C), plain, normal(*shape))


def test_parameters_are_those_of_the_authors() -> None:
    shapes = [tuple(p.shape) for name, p in sc.create("lsk", C).named_parameters() if "weight" in name]
    assert shapes == [(C, 1, 5, 5), (C, 1, 7, 7), (3, C, 1, 1), (3, C, 1, 1), (2, 2, 7, 7), (C, 3, 1, 1)]


def test_the_recorded_map_is_the_mean_gate() -> None:
    module, x = build("lsk", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("the map", recorded.weights, (y / x).mean(1).detach())


def test_one_channel_is_refused() -> None:
    with raises(sc.BadOption, owner="lsk", option="channels", value=1):
        sc.create("lsk", 1)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="lsk", option="shape", value=shape):
        sc.create("lsk", C)(torch.zeros(shape))
