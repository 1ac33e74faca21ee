"""se equals torchvision's SqueezeExcitation, parameter for parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torchvision.ops import SqueezeExcitation

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_parity, build, normal

C, REDUCTION = 24, 4


def torchvision_se(parameters: Parameters, x: Tensor) -> Tensor:
    """torchvision's module with our linear layers as its 1 x 1 convolutions."""
    names = {"fc1": "reduce", "fc2": "expand"}
    theirs = {f"{t}.weight": parameters[f"{o}.weight"][..., None, None] for t, o in names.items()}
    theirs |= {f"{t}.bias": parameters[f"{o}.bias"] for t, o in names.items()}
    result: Tensor = functional_call(SqueezeExcitation(C, C // REDUCTION).double(), theirs, (x,))
    return result


@pytest.mark.parametrize("shape", [(2, C, 8, 8), (3, C, 7, 5), (1, C, 1, 1)], ids=str)
def test_equals_torchvision(shape: tuple[int, ...]) -> None:
    assert_parity(build("se", C, reduction=REDUCTION), torchvision_se, normal(*shape))


@pytest.mark.parametrize("shape", [(2, C, 9), (2, C, 3, 4, 5)], ids=str)
def test_sequences_and_clips_equal_images_of_one_row(shape: tuple[int, ...]) -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        return torchvision_se(parameters, x.flatten(2)[:, :, None]).reshape(x.shape)

    assert_parity(build("se", C, reduction=REDUCTION), reference, normal(*shape))


def test_without_bias_equals_the_formula() -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        hidden = torch.clamp(x.mean((2, 3)) @ parameters["reduce.weight"].T, min=0)
        gate = 1 / (1 + torch.exp(-hidden @ parameters["expand.weight"].T))
        return x * gate[:, :, None, None]

    module = build("se", C, reduction=REDUCTION, bias=False)
    assert [*module.state_dict()] == ["reduce.weight", "expand.weight"]
    assert_parity(module, reference, normal(2, C, 7, 5))


def test_the_hidden_layer_is_exactly_channels_over_reduction() -> None:
    assert sc.create("se", 50, reduction=16).state_dict()["reduce.weight"].shape == (3, 50)
    with raises(sc.BadOption, owner="se", option="channels", value=8):
        sc.create("se", 8)


@pytest.mark.parametrize("reduction", [0, -1, 1.5, True, "4"], ids=repr)
def test_a_reduction_must_be_a_positive_integer(reduction: Any) -> None:
    with raises(sc.BadOption, owner="se", option="reduction", value=reduction):
        sc.create("se", 32, reduction=reduction)


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("se", C, reduction=REDUCTION), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    torch.testing.assert_close(recorded.weights[:, :, None, None] * x, y.detach())
    torch.testing.assert_close(recorded.energy, y.detach().abs().sum(1))
