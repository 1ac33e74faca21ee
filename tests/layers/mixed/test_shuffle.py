"""shuffle equals its formula, channel by channel; its groups share their parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import sigmoid

C = 24


def gates(p: Parameters, x: Tensor, groups: int) -> Tensor:
    """Return the gate of each channel, in the order of the input."""
    half = C // (2 * groups)
    places = [*range(1, x.ndim - 1)]
    channels = []
    for channel in range(C):
        c, z = channel % half, x[:, channel]
        mean = z.mean(places, keepdim=True)
        if channel // half % 2 == 0:
            logits = (p["cweight"][0, c, 0, 0] * mean + p["cbias"][0, c, 0, 0]).expand_as(z)
        else:
            unit = (z - mean) / (((z - mean) ** 2).mean(places, keepdim=True) + 1e-5) ** 0.5
            unit = unit * p["norm.weight"][c] + p["norm.bias"][c]
            logits = p["sweight"][0, c, 0, 0] * unit + p["sbias"][0, c, 0, 0]
        channels.append(sigmoid(logits))
    return torch.stack(channels, 1)


def plain(p: Parameters, x: Tensor, groups: int) -> Tensor:
    gated = gates(p, x, groups) * x
    order = [half * C // 2 + j for j in range(C // 2) for half in range(2)]
    return gated[:, order]


@pytest.mark.parametrize("groups", [1, 2, 3, 12])
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 9), (2, C, 3, 4, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], groups: int) -> None:
    assert_parity(build("shuffle", C, groups=groups), lambda p, x: plain(p, x, groups), normal(*shape))


def test_channels_last_equals_the_formula() -> None:
    x = normal(2, C, 7, 5).to(memory_format=torch.channels_last)
    assert_parity(build("shuffle", C, groups=3), lambda p, x: plain(p, x, 3), x)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_position_is_its_own_mean(batch: int) -> None:
    module, x = build("shuffle", C, groups=2), normal(batch, C, 1, 1)
    assert_close("output", module(x), plain(dict(module.named_parameters()), x, 2))


def test_initially_every_gate_is_sigma_of_1() -> None:
    x = normal(2, 128, 7, 5).float()
    order = torch.arange(128).reshape(2, 64).T.flatten()
    torch.testing.assert_close(sc.create("shuffle", 128)(x), x[:, order] * 0.7310586)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    module = sc.create("shuffle", 512)
    values = [(tuple(p.shape), p.flatten()[0].item()) for p in module.parameters()]
    ours = (1, 4, 1, 1)
    assert values == [(ours, 0), (ours, 1), (ours, 0), (ours, 1), ((4,), 1), ((4,), 0)]


@pytest.mark.parametrize(
    ("options", "option"), [({}, "channels"), ({"groups": 8}, "channels"), ({"groups": 0}, "groups")], ids=str
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="shuffle", option=option, value=options.get(option, C)):
        sc.create("shuffle", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 2, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="shuffle", option="shape", value=shape):
        sc.create("shuffle", C, groups=2)(torch.zeros(shape))


def test_recorded_maps_are_the_gates_averaged_over_the_other_axes() -> None:
    module, x = build("shuffle", C, groups=3), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    channel, spatial = maps["channel"], maps["spatial"]
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    weights = gates(dict(module.named_parameters()), x, 3).detach()
    assert_close("channel", channel.weights, weights.mean((2, 3)))
    assert_close("spatial", spatial.weights, weights.mean(1))
