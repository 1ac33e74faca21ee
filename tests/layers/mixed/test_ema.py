"""ema equals its formula, although it builds no result of the 3 x 3 convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import conv3x3, pointwise, sigmoid

C = 12


def softmax(x: Tensor) -> Tensor:
    exponent = torch.exp(x)
    return exponent / exponent.sum(1, keepdim=True)


def gates(p: Parameters, x: Tensor, groups: int) -> Tensor:
    """Return the gate of each group, (B, groups, H, W)."""
    result = []
    for z in x.chunk(groups, 1):
        rows = sigmoid(pointwise(p, "conv1x1", z.mean(3)))
        columns = sigmoid(pointwise(p, "conv1x1", z.mean(2)))
        gated = z * rows[:, :, :, None] * columns[:, :, None, :]
        mean = gated.mean((2, 3), keepdim=True)
        unit = (gated - mean) / (((gated - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5) ** 0.5
        u = unit * p["norm.weight"][:, None, None] + p["norm.bias"][:, None, None]
        v = conv3x3(p, "conv3x3", z)
        of_u, of_v = (softmax(branch.mean((2, 3)))[:, :, None, None] for branch in (u, v))
        result.append(sigmoid((of_u * v + of_v * u).sum(1)))
    return torch.stack(result, 1)


def plain(p: Parameters, x: Tensor, groups: int) -> Tensor:
    return x * gates(p, x, groups).repeat_interleave(C // groups, 1)


@pytest.mark.parametrize("groups", [1, 3, 4])
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 6), (2, C, 6, 1), (2, C, 2, 2)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], groups: int) -> None:
    assert_parity(build("ema", C, groups=groups), lambda p, x: plain(p, x, groups), normal(*shape))


def test_groups_of_one_channel_equal_the_formula() -> None:
    """The softmax over one channel is 1, so that nothing but the constant reaches some parameters."""
    module, x = build("ema", C, groups=C), normal(2, C, 7, 5)
    assert_close("output", module(x), plain(dict(module.named_parameters()), x, C))


def test_channels_last_equals_the_formula() -> None:
    x = normal(2, C, 7, 5).to(memory_format=torch.channels_last)
    assert_parity(build("ema", C, groups=3), lambda p, x: plain(p, x, 3), x)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_position_is_its_own_mean(batch: int, groups: int) -> None:
    module, x = build("ema", C, groups=groups), normal(batch, C, 1, 1)
    assert_close("output", module(x), plain(dict(module.named_parameters()), x, groups))


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(parameter.shape) for parameter in sc.create("ema", 128).parameters()]
    assert shapes == [(4,), (4,), (4, 4, 1, 1), (4,), (4, 4, 3, 3), (4,)]


@pytest.mark.parametrize(
    ("options", "option"), [({}, "channels"), ({"groups": 5}, "channels"), ({"groups": 0}, "groups")], ids=str
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="ema", option=option, value=options.get(option, C)):
        sc.create("ema", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 2, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ema", option="shape", value=shape):
        sc.create("ema", C, groups=4)(torch.zeros(shape))


def test_recorded_weights_are_the_mean_over_groups() -> None:
    module, x = build("ema", C, groups=3), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, gates(dict(module.named_parameters()), x, 3).mean(1).detach())
