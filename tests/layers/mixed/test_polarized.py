"""polarized equals the formulas of both arrangements, of the authors' code and of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise, relu, sigmoid

C = 16
FORMS = [
    {"arrangement": arrangement, "source": source}
    for arrangement in ("parallel", "sequential")
    for source in ("code", "paper")
]


def softmax(x: Tensor, dim: int) -> Tensor:
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


def layer_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    centered = x - x.mean(1, keepdim=True)
    unit = centered / ((centered**2).mean(1, keepdim=True) + 1e-5) ** 0.5
    return unit * p[f"{name}.weight"].flatten() + p[f"{name}.bias"].flatten()


def channel_gate(p: Parameters, x: Tensor, arrangement: str, source: str) -> Tensor:
    """(B, C)"""
    x = x.flatten(2)
    weights = softmax(pointwise(p, "channel.query", x), 2)  # over positions
    context = (pointwise(p, "channel.value", x) * weights).sum(2)
    context = pointwise(p, "channel.project.0", context)
    if source == "paper":
        context = layer_norm(p, "channel.project.1", context)
    elif arrangement == "sequential":
        context = pointwise(p, "channel.project.3", relu(layer_norm(p, "channel.project.1", context)))
    return sigmoid(context)


def spatial_gate(p: Parameters, x: Tensor, arrangement: str, source: str) -> Tensor:
    """(B, positions)"""
    x = x.flatten(2)
    query = pointwise(p, "spatial.query", x).mean(2)
    keys = pointwise(p, "spatial.key", x)
    if source == "paper":
        query = softmax(query, 1)  # over channels
    elif arrangement == "sequential":
        keys = softmax(keys, 2)  # over positions
    logits = (query[:, :, None] * keys).sum(1)
    if source == "code" and arrangement == "parallel":
        logits = softmax(logits, 1)
    return sigmoid(logits)


def plain(p: Parameters, x: Tensor, arrangement: str, source: str) -> Tensor:
    by_channel = x * channel_gate(p, x, arrangement, source)[:, :, None, None]
    seen = by_channel if arrangement == "sequential" else x
    by_place = seen * spatial_gate(p, seen, arrangement, source).reshape(len(x), 1, *x.shape[2:])
    return by_place if arrangement == "sequential" else by_channel + by_place


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (3, C, 1, 4), (1, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], form: dict[str, Any]) -> None:
    assert_parity(build("polarized", C, **form), lambda p, x: plain(p, x, **form), normal(*shape))


@pytest.mark.parametrize("channels", [8, 11])
def test_odd_channels_equal_the_formula(channels: int) -> None:
    form = {"arrangement": "sequential", "source": "code"}
    module = build("polarized", channels, **form)
    assert_parity(module, lambda p, x: plain(p, x, **form), normal(2, channels, 3, 5))


@pytest.mark.parametrize(
    ("form", "layers"),
    [
        (FORMS[0], [(C, 8, 1, 1)]),
        (FORMS[1], [(C, 8, 1, 1), (C, 1, 1), (C, 1, 1)]),
        (FORMS[2], [(2, 8, 1, 1), (2,), (2, 1, 1), (2, 1, 1), (C, 2, 1, 1), (C,)]),
        (FORMS[3], [(C, 8, 1, 1), (C, 1, 1), (C, 1, 1)]),
    ],
    ids=str,
)
def test_parameters_are_those_of_the_authors_in_their_order(
    form: dict[str, Any], layers: list[tuple[int, ...]]
) -> None:
    shapes = [tuple(p.shape) for p in sc.create("polarized", C, **form).parameters()]
    half = (8, C, 1, 1)
    assert shapes == [(1, C, 1, 1), half, *layers, half, half]


def test_convolutions_have_the_authors_initialization() -> None:
    torch.manual_seed(0)
    state = sc.create("polarized", 512).state_dict()
    for name in ("channel.query", "channel.value", "spatial.query", "spatial.key"):
        assert state[f"{name}.weight"].std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    assert state["channel.project.0.weight"].std().item() == pytest.approx((1 / 768) ** 0.5, rel=0.1)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_tensor_is_larger_than_the_map(form: dict[str, Any]) -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("polarized", 32, **form), x) == x.numel()


@pytest.mark.parametrize("options", [{"arrangement": "both"}, {"source": "copy"}], ids=str)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    with raises(sc.BadOption, owner="polarized", option=option, value=value):
        sc.create("polarized", C, **options)


@pytest.mark.parametrize(("arrangement", "channels"), [("parallel", 1), ("sequential", 7)])
def test_too_few_channels_are_refused(arrangement: str, channels: int) -> None:
    with raises(sc.BadOption, owner="polarized", option="channels", value=channels):
        sc.create("polarized", channels, arrangement=arrangement)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="polarized", option="shape", value=shape):
        sc.create("polarized", C)(torch.zeros(shape))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_recorded_maps_are_the_gates(form: dict[str, Any]) -> None:
    module, x = build("polarized", C, **form), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    channel, spatial = maps["channel"], maps["spatial"]
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    p = dict(module.named_parameters())
    by_channel = channel_gate(p, x, **form)
    seen = x * by_channel[:, :, None, None] if form["arrangement"] == "sequential" else x
    assert_close("channel", channel.weights, by_channel.detach())
    assert_close("spatial", spatial.weights.flatten(1), spatial_gate(p, seen, **form).detach())
