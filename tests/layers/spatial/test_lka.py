"""lka equals its convolutions, written as sums over their taps; its weights have no sigmoid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import pointwise

C = 6


def depthwise(p: Parameters, name: str, x: Tensor, dilation: int) -> Tensor:
    weight, (height, width) = p[f"{name}.weight"], x.shape[2:]
    size = weight.shape[-1]
    padded = F.pad(x, [dilation * (size // 2)] * 4)
    total = p[f"{name}.bias"][:, None, None].expand_as(x)
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            total = (
                total + weight[:, 0, i, j, None, None] * padded[:, :, top : top + height, left : left + width]
            )
    return total


def weights(p: Parameters, x: Tensor) -> Tensor:
    return pointwise(p, "mix", depthwise(p, "dilated", depthwise(p, "local", x, 1), 3))


@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 25, 13), (3, C, 7, 5), (2, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...]) -> None:
    assert_parity(build("lka", C), lambda p, x: weights(p, x) * x, normal(*shape))


def test_one_value_reaches_23_by_23_positions() -> None:
    module, x = build("lka", C), normal(1, C, 41, 41).requires_grad_()
    attention = weights(dict(module.named_parameters()), x)
    (gradient,) = torch.autograd.grad((module(x) / x)[0, :, 20, 20].sum(), x)
    reached = gradient[0].abs().sum(0).nonzero()
    assert attention.min() < 0  # no sigmoid
    assert (reached.amin(0).tolist(), reached.amax(0).tolist()) == ([9, 9], [31, 31])


def test_layers_are_those_of_the_authors() -> None:
    torch.manual_seed(0)
    state = sc.create("lka", 256).state_dict()
    shapes = [tuple(value.shape) for value in state.values()]
    assert shapes == [(256, 1, 5, 5), (256,), (256, 1, 7, 7), (256,), (256, 256, 1, 1), (256,)]
    for name, fan_out in (("local", 25), ("dilated", 49), ("mix", 256)):
        assert state[f"{name}.weight"].std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert not state[f"{name}.bias"].any()


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="lka", option="shape", value=shape):
        sc.create("lka", C)(torch.zeros(shape))


def test_recorded_weights_are_the_mean_over_channels() -> None:
    module, x = build("lka", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, weights(dict(module.named_parameters()), x).mean(1).detach())
