"""attention_gate equals its formula, with every resizing as a matrix of its own."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, pointwise, relu, resize, sigmoid

C = 6


def strided(weight: Tensor, x: Tensor, stride: int) -> Tensor:
    """A convolution of blocks that do not overlap, a sum over places in the block; the rest is left out."""
    extents, total = [extent // stride * stride for extent in x.shape[2:]], torch.zeros((), dtype=x.dtype)
    for place in product(range(stride), repeat=len(extents)):
        tap, window = weight, x
        for axis, (i, extent) in enumerate(zip(place, extents, strict=True), start=2):
            tap = tap.select(2, i)
            window = window.narrow(axis, 0, extent).unflatten(axis, (-1, stride)).select(axis + 1, i)
        total = total + torch.einsum("oc,bc...->bo...", tap, window)
    return total


def weights(parameters: Parameters, x: Tensor, g: Tensor, stride: int) -> Tensor:
    features = strided(parameters["theta.weight"], x, stride)
    gating = resize(pointwise(parameters, "phi", g), tuple(features.shape[2:]), align_corners=False)
    q = pointwise(parameters, "psi", relu(features + gating))
    return resize(sigmoid(q), tuple(x.shape[2:]), align_corners=False)


def formula(parameters: Parameters, x: Tensor, g: Tensor, *, stride: int = 2) -> Tensor:
    return weights(parameters, x, g, stride) * x


@pytest.mark.parametrize(
    ("size", "coarse"),
    [((8, 6), (4, 3)), ((7, 5), (3, 2)), ((9, 4), (5, 7)), ((2, 3), (1, 1)), ((6, 6), (12, 12))],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 1}, {"inner_channels": 4, "gating_channels": 9}, {"stride": 2, "inner_channels": 1}],
    ids=str,
)
def test_equals_the_formula(size: tuple[int, int], coarse: tuple[int, int], options: dict[str, Any]) -> None:
    x, g = normal(2, C, *size), normal(2, options.get("gating_channels", C), *coarse, seed=1)
    stride = options.get("stride", 2)
    assert_parity(
        build("attention_gate", C, **options), lambda p, x, g: formula(p, x, g, stride=stride), x, g
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_volumes(stride: int) -> None:
    x, g = normal(2, C, 5, 7, 4), normal(2, C, 3, 2, 2, seed=1)
    module = build("attention_gate", C, dims=3, stride=stride)
    assert_parity(module, lambda p, x, g: formula(p, x, g, stride=stride), x, g)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dims", [2, 3])
def test_output_projection_is_a_convolution_and_a_batch_norm(dims: int, training: bool) -> None:
    x, g = normal(3, C, *(7, 5, 3)[:dims]), normal(3, C, *(3, 2, 2)[:dims], seed=1)
    module = build("attention_gate", C, dims=dims, output_projection=True)
    module(x, g)
    norm = BatchNorms(module.train(training))

    def reference(parameters: Parameters, x: Tensor, g: Tensor) -> Tensor:
        return norm(parameters, "output.1", pointwise(parameters, "output.0", formula(parameters, x, g)))

    assert_parity(module, reference, x, g, vanishing=["output.0.bias"] if training else ())
    if training:
        norm.assert_running()


def test_parameters_are_those_of_the_authors() -> None:
    shapes = {
        n: tuple(v.shape) for n, v in sc.create("attention_gate", 8, gating_channels=5).state_dict().items()
    }
    assert shapes == {
        "theta.weight": (4, 8, 2, 2),
        "phi.weight": (4, 5, 1, 1),
        "phi.bias": (4,),
        "psi.weight": (1, 4, 1, 1),
        "psi.bias": (1,),
    }
    assert sc.create("attention_gate", 1).state_dict()["theta.weight"].shape == (1, 1, 2, 2)


@pytest.mark.parametrize(("bias", "factor"), [(800.0, 1.0), (-800.0, 0.0)])
def test_a_high_score_lets_through_and_a_low_one_holds_back(bias: float, factor: float) -> None:
    module, x = build("attention_gate", C), normal(2, C, 7, 5)
    with torch.no_grad():
        dict(module.named_parameters())["psi.bias"].fill_(bias)
    assert_close("the gated map", module(x, normal(2, C, 3, 2, seed=1)).detach(), factor * x)


def test_the_gate_follows_its_second_input() -> None:
    """Where the gating map is switched on, and only near it, the skip map passes."""
    module = sc.create("attention_gate", 1, inner_channels=1).double()
    values = {"theta.weight": 0.0, "phi.weight": 1.0, "phi.bias": 0.0, "psi.weight": 20.0, "psi.bias": -10.0}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(values[name])
    g = torch.zeros(1, 1, 4, 6).double()
    g[0, 0, 1, 4] = 1
    y = module(torch.ones(1, 1, 8, 12).double(), g).detach()[0, 0]
    assert math.isclose(y.max().item(), y[2:4, 8:10].max().item())
    assert y[2:4, 8:10].min() > 0.5
    y[1:5, 7:11] = 0
    assert y.max() < 1e-3


@pytest.mark.parametrize(
    ("option", "value"), [("inner_channels", 0), ("gating_channels", -2), ("stride", 0), ("dims", 1)]
)
def test_bad_options_are_refused(option: str, value: int) -> None:
    with raises(sc.BadOption, owner="attention_gate", option=option, value=value):
        sc.create("attention_gate", C, **{option: value})


@pytest.mark.parametrize(
    ("x", "g", "wrong"),
    [
        ((2, C, 8, 8), (3, C, 4, 4), "g"),
        ((2, C, 8, 8), (2, C + 1, 4, 4), "g"),
        ((2, C, 8, 8), (2, C), "g"),
        ((2, 10, C), (2, C, 4, 4), "x"),
        ((2, C, 8, 8), (2, C, 0, 4), "g"),
        ((2, C, 1, 8), (2, C, 4, 4), "x"),
        ((1, C, 1, 1), (1, C, 1, 1), "x"),
    ],
)
def test_bad_inputs_are_refused(x: tuple[int, ...], g: tuple[int, ...], wrong: str) -> None:
    value = {"x": x, "g": g}[wrong]
    with raises(sc.BadShape, owner="attention_gate", option="shape", value=value):
        sc.create("attention_gate", C)(torch.zeros(x), torch.zeros(g))


def test_one_position_cannot_train_the_batch_norm() -> None:
    module = sc.create("attention_gate", C, stride=1, output_projection=True)
    x = torch.randn(1, C, 1, 1)
    with raises(sc.BadShape, owner="attention_gate", option="shape", value=(1, C, 1, 1)):
        module(x, x)
    assert module.eval()(x, x).shape == x.shape


def test_nan_propagates_from_either_input() -> None:
    module, x, g = sc.create("attention_gate", C), torch.randn(1, C, 4, 4), torch.randn(1, C, 2, 2)
    assert module(x * math.nan, g).isnan().all()
    assert module(x, g * math.nan).isnan().all()


def test_recorded_weights_are_the_gate() -> None:
    module, x, g = build("attention_gate", C), normal(2, C, 7, 5), normal(2, C, 4, 3, seed=1)
    with sc.record(module) as maps:
        y = module(x, g)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("alpha", recorded.weights, weights(dict(module.named_parameters()), x, g, 2)[:, 0].detach())
    torch.testing.assert_close(recorded.weights[:, None] * x, y.detach())
