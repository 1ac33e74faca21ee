"""scse equals its formula; the maximum compares the products, and not the gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise, relu, sigmoid

C, REDUCTION = 24, 4
SHAPES = [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 1), (2, C, 9), (2, C, 3, 4, 5)]


def gates(p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    means = x.mean([*range(2, x.ndim)])
    channel = sigmoid(pointwise(p, "channel.expand", relu(pointwise(p, "channel.reduce", means))))
    return channel.reshape(*channel.shape, *[1] * (x.ndim - 2)), sigmoid(pointwise(p, "spatial.conv", x))


def plain(p: Parameters, x: Tensor, combine: str = "max") -> Tensor:
    channel, spatial = gates(p, x)
    return torch.maximum(x * channel, x * spatial) if combine == "max" else x * channel + x * spatial


@pytest.mark.parametrize("combine", ["max", "add"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(shape: tuple[int, ...], combine: str) -> None:
    module = build("scse", C, reduction=REDUCTION, combine=combine)
    assert_parity(module, lambda p, x: plain(p, x, combine), normal(*shape))


def test_behind_a_relu_zeros_share_the_gradient() -> None:
    """At x = 0 both products are equal, and torch.maximum gives each half of the gradient."""
    assert_parity(build("scse", C, reduction=REDUCTION), plain, normal(2, C, 7, 5).clamp(min=0))


def test_for_negative_features_the_smaller_gate_wins() -> None:
    module, x = build("scse", C, reduction=REDUCTION), -normal(2, C, 7, 5).abs()
    channel, spatial = gates(dict(module.named_parameters()), x)
    assert_close("output", module(x), torch.minimum(channel, spatial) * x)


def test_both_gates_have_biases_in_the_order_of_the_authors() -> None:
    shapes = [tuple(value.shape) for value in sc.create("scse", C).parameters()]
    assert shapes == [(C // 2, C), (C // 2,), (C, C // 2), (C,), (1, C, 1, 1), (1,)]


@pytest.mark.parametrize(
    ("options", "option"),
    [({"reduction": 25}, "channels"), ({"reduction": 0}, "reduction"), ({"combine": "mul"}, "combine")],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="scse", option=option, value=options.get(option, C)):
        sc.create("scse", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="scse", option="shape", value=shape):
        sc.create("scse", C)(torch.zeros(shape))


def test_recorded_maps_are_both_gates() -> None:
    module, x = build("scse", C, reduction=REDUCTION), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    channel, spatial = maps["channel"], maps["spatial"]
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    expected = gates(dict(module.named_parameters()), x)
    assert_close("channel", channel.weights, expected[0][:, :, 0, 0].detach())
    assert_close("spatial", spatial.weights, expected[1][:, 0].detach())


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, C, 16, 16)
    assert largest_tensor(sc.create("scse", C), x) == x.numel()
