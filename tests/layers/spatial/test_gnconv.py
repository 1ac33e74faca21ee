"""gnconv equals its recursion, with the convolution written as a sum over its taps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import pointwise

C = 16


def depthwise(p: Parameters, x: Tensor) -> Tensor:
    weight, (height, width) = p["depthwise.weight"], x.shape[2:]
    padded = F.pad(x, [3] * 4)
    total = p["depthwise.bias"][:, None, None].expand_as(x)
    for i in range(7):
        for j in range(7):
            total = total + weight[:, 0, i, j, None, None] * padded[:, :, i : i + height, j : j + width]
    return total


def gates(p: Parameters, x: Tensor, order: int, scale: float) -> tuple[Tensor, list[Tensor]]:
    widths = [C // 2 ** (order - 1 - k) for k in range(order)]
    projected = pointwise(p, "project", x)
    maps = scale * depthwise(p, projected[:, widths[0] :])
    ends = [sum(widths[: k + 1]) for k in range(order)]
    parts = [maps[:, end - width : end] for end, width in zip(ends, widths, strict=True)]
    return projected[:, : widths[0]], parts


def plain(p: Parameters, x: Tensor, order: int = 5, scale: float = 1.0) -> Tensor:
    z, parts = gates(p, x, order, scale)
    z = z * parts[0]
    for k in range(order - 1):
        z = pointwise(p, f"mixes.{k}", z) * parts[k + 1]
    return pointwise(p, "out", z)


OPTIONS: list[dict[str, Any]] = [{}, {"order": 1}, {"order": 2, "scale": 1 / 3}, {"order": 3, "scale": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (3, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_parity(build("gnconv", C, **options), lambda p, x: plain(p, x, **options), normal(*shape))


def test_the_order_counts_the_products() -> None:
    """Without biases, the output is a polynomial of degree n + 1, in each term."""
    module, x = build("gnconv", C, order=3), normal(2, C, 7, 5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    assert_close("scaled", module(2 * x), 2**4 * module(x))


def test_layers_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    state = sc.create("gnconv", 64, order=3).state_dict()
    assert [tuple(value.shape) for value in state.values()] == [
        (128, 64, 1, 1), (128,), (112, 1, 7, 7), (112,), (64, 64, 1, 1), (64,),
        (32, 16, 1, 1), (32,), (64, 32, 1, 1), (64,),
    ]  # fmt: skip
    for name, value in state.items():
        if name.endswith("bias"):
            assert not value.any()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("options", "option"),
    [({"order": 0}, "order"), ({"order": 2.0}, "order"), ({"scale": 0}, "scale"), ({"scale": "1"}, "scale")],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="gnconv", option=option, value=options[option]):
        sc.create("gnconv", C, **options)


@pytest.mark.parametrize("order", [5, 20_000])
def test_channels_that_do_not_divide_are_refused(order: int) -> None:
    with raises(sc.BadOption, owner="gnconv", option="channels", value=24):
        sc.create("gnconv", 24, order=order)


def test_channels_that_divide_are_accepted() -> None:
    assert sc.create("gnconv", 24, order=4)(torch.zeros(1, 24, 2, 2)).shape == (1, 24, 2, 2)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="gnconv", option="shape", value=shape):
        sc.create("gnconv", C)(torch.zeros(shape))


def test_the_recorded_map_is_the_mean_of_the_last_gate() -> None:
    module, x = build("gnconv", C, order=3, scale=0.5), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    _, parts = gates(dict(module.named_parameters()), x, 3, 0.5)
    assert_close("weights", recorded.weights, parts[-1].mean(1).detach())
