"""ese equals its formula, and timm's EffectiveSEModule."""

from __future__ import annotations

import pytest
import torch
from timm.layers.squeeze_excite import EffectiveSEModule
from torch import Tensor, nn
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import pointwise

C = 24


def gate(p: Parameters, x: Tensor) -> Tensor:
    logits = pointwise(p, "conv", x.mean([*range(2, x.ndim)]))
    return torch.clamp(logits + 3, 0, 6) / 6


def plain(p: Parameters, x: Tensor) -> Tensor:
    return x * gate(p, x).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


class HardSigmoid(nn.Module):
    """Exact in float64, unlike that of torch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x + 3, 0, 6) / 6


def timm_ese(p: Parameters, x: Tensor) -> Tensor:
    theirs = {"fc.weight": p["conv.weight"], "fc.bias": p["conv.bias"]}
    result: Tensor = functional_call(EffectiveSEModule(C, gate_layer=HardSigmoid).double(), theirs, (x,))
    return result


@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (3, C, 1, 1)], ids=str)
def test_equals_timm(shape: tuple[int, ...]) -> None:
    assert_parity(build("ese", C), timm_ese, normal(*shape))


@pytest.mark.parametrize("shape", [(2, C, 7, 5), (2, C, 9), (2, C, 3, 4, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...]) -> None:
    module, x = build("ese", C), 8 * normal(*shape)
    assert_parity(module, plain, x)
    values = gate(dict(module.named_parameters()), 40 * x)
    assert (values == 0).any()  # both ends of the hard sigmoid are reached
    assert (values == 1).any()


def test_one_layer_with_a_bias_and_the_authors_initialization() -> None:
    torch.manual_seed(0)
    conv = sc.create("ese", 256).state_dict()
    assert {name: tuple(value.shape) for name, value in conv.items()} == {
        "conv.weight": (256, 256, 1, 1),
        "conv.bias": (256,),
    }
    assert conv["conv.weight"].std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ese", option="shape", value=shape):
        sc.create("ese", C)(torch.zeros(shape))


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("ese", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    assert_close("weights", recorded.weights, gate(dict(module.named_parameters()), x).detach())
