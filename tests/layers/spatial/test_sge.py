"""sge equals its formula, group by group; its standard deviation is unbiased."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import sigmoid

C = 12


def gates(p: Parameters, x: Tensor, groups: int) -> Tensor:
    """(B, groups, positions)"""
    width, z = C // groups, x.flatten(2)
    count = z.shape[2]
    result = []
    for g in range(groups):
        part = z[:, g * width : (g + 1) * width]
        center = part.sum(2) / count
        similarity = torch.stack([(center * part[:, :, i]).sum(1) for i in range(count)], 1)
        centered = similarity - similarity.sum(1, keepdim=True) / count
        deviation = ((centered**2).sum(1, keepdim=True) / (count - 1)) ** 0.5
        logits = p["weight"][0, g, 0, 0] * centered / (deviation + 1e-5) + p["bias"][0, g, 0, 0]
        result.append(sigmoid(logits))
    return torch.stack(result, 1)


def plain(p: Parameters, x: Tensor, groups: int) -> Tensor:
    gate = gates(p, x, groups).repeat_interleave(C // groups, dim=1)
    return x * gate.reshape(x.shape)


@pytest.mark.parametrize("groups", [1, 3, 4, 12])
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 2), (2, C, 9), (2, C, 3, 4, 5)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], groups: int) -> None:
    assert_parity(build("sge", C, groups=groups), lambda p, x: plain(p, x, groups), normal(*shape))


def test_channels_last_equals_the_formula() -> None:
    x = normal(2, C, 7, 5).to(memory_format=torch.channels_last)
    assert_parity(build("sge", C, groups=3), lambda p, x: plain(p, x, 3), x)


def test_initially_every_gate_is_sigma_of_1() -> None:
    x = torch.randn(2, 128, 7, 5)
    torch.testing.assert_close(sc.create("sge", 128)(x), x * 0.7310586)


def test_a_constant_map_has_finite_gradients() -> None:
    module = build("sge", C, groups=3)
    x = torch.ones(2, C, 4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert gradient.isfinite().all()


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    state = sc.create("sge", 512).state_dict()
    values = [(name, tuple(p.shape), p.flatten()[0].item()) for name, p in state.items()]
    assert values == [("weight", (1, 64, 1, 1), 0), ("bias", (1, 64, 1, 1), 1)]


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, C, 24, 20)
    assert largest_tensor(sc.create("sge", C, groups=3), x) == x.numel()


@pytest.mark.parametrize(("groups", "option", "value"), [(64, "channels", C), (0, "groups", 0)])
def test_bad_options_are_refused(groups: int, option: str, value: int) -> None:
    with raises(sc.BadOption, owner="sge", option=option, value=value):
        sc.create("sge", C, groups=groups)


@pytest.mark.parametrize("shape", [(2, C + 2, 4, 4), (2, C), (0, C, 4, 4), (2, C, 1, 1), (2, C, 1)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="sge", option="shape", value=shape):
        sc.create("sge", C, groups=2)(torch.zeros(shape))


def test_the_recorded_map_is_the_mean_of_the_gates_over_groups() -> None:
    module, x = build("sge", C, groups=3), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    expected = gates(dict(module.named_parameters()), x, 3).mean(1).reshape(2, 7, 5)
    assert_close("weights", recorded.weights, expected.detach())
