"""sca equals its formula, written with loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

C = 6


def plain(p: Parameters, x: Tensor) -> Tensor:
    weight, bias = p["linear.weight"], p["linear.bias"]
    images = []
    for image in x.flatten(2):
        means = [channel.sum() / channel.numel() for channel in image]
        gates = [bias[c] + sum(weight[c, k] * means[k] for k in range(C)) for c in range(C)]
        images.append(torch.stack([gate * channel for gate, channel in zip(gates, image, strict=True)]))
    return torch.stack(images).reshape(x.shape)


@pytest.mark.parametrize("shape", [(2, C, 7, 5), (1, C, 1, 1), (2, C, 9), (2, C, 3, 4, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...]) -> None:
    assert_parity(build("sca", C), plain, normal(*shape))


def test_parameters_are_those_of_the_authors() -> None:
    assert [tuple(p.shape) for p in sc.create("sca", C).parameters()] == [(C, C), (C,)]


def test_recorded_weights_are_the_gate_of_either_sign() -> None:
    module, x = build("sca", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    assert_close("weights", recorded.weights, (y / x)[:, :, 0, 0].detach())
    assert (recorded.weights < 0).any()


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="sca", option="shape", value=shape):
        sc.create("sca", C)(torch.zeros(shape))
