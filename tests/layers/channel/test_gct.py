"""gct equals the formulas of both norms, is the identity at the start, and survives large maps in float16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

C = 24
OPTIONS: list[dict[str, Any]] = [
    {},
    {"epsilon": 0.5},
    {"after_relu": True},
    {"mode": "l1"},
    {"mode": "l1", "epsilon": 0.5},
    {"mode": "l1", "after_relu": True},
]


def gate(
    p: Parameters, x: Tensor, mode: str = "l2", epsilon: float = 1e-5, after_relu: bool = False
) -> Tensor:
    alpha, gamma, beta = (p[name].flatten() for name in ("alpha", "gamma", "beta"))
    places = [*range(2, x.ndim)]
    if mode == "l2":
        embedding = ((x**2).sum(places) + epsilon) ** 0.5 * alpha
        norm = gamma / ((embedding**2).mean(1, keepdim=True) + epsilon) ** 0.5
    else:
        embedding = (x if after_relu else x.abs()).sum(places) * alpha
        norm = gamma / (embedding.abs().mean(1, keepdim=True) + epsilon)
    return 1 + torch.tanh(embedding * norm + beta)


def plain(p: Parameters, x: Tensor, **options: Any) -> Tensor:
    return x * gate(p, x, **options).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 1), (2, C, 9), (2, C, 3, 4, 5)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_parity(build("gct", C, **options), lambda p, x: plain(p, x, **options), normal(*shape))


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_channels_of_zeros_have_finite_gradients(options: dict[str, Any]) -> None:
    x = normal(2, C, 7, 5).clamp(min=0)
    x[:, ::2] = 0
    assert_parity(build("gct", C, **options), lambda p, x: plain(p, x, **options), x)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_initially_the_identity(options: dict[str, Any]) -> None:
    x = torch.randn(2, C, 7, 5)
    assert torch.equal(sc.create("gct", C, **options)(x), x)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    state = {name: value.flatten()[0].item() for name, value in sc.create("gct", C).state_dict().items()}
    assert [*state.items()] == [("alpha", 1), ("gamma", 0), ("beta", 0)]
    assert all(parameter.shape == (1, C, 1, 1) for parameter in sc.create("gct", C).parameters())


@pytest.mark.parametrize("mode", ["l2", "l1"])
def test_half_precision_does_not_overflow(mode: str) -> None:
    """The sums exceed 65504, the range of float16."""
    module, x = build("gct", C, mode=mode), 20 * normal(1, C, 64, 64)
    expected = module(x)
    got = module.half()(x.half())
    torch.testing.assert_close(got.double(), expected, rtol=2e-2, atol=0.1)


def test_no_map_of_squares_is_built() -> None:
    x = torch.randn(2, C, 16, 16)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr() if tensor.numel() == x.numel() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sc.create("gct", C)(x.requires_grad_())
    assert {*kept} == {0, x.untyped_storage().data_ptr()}
    assert largest_tensor(sc.create("gct", C), x.detach()) == x.numel()


@pytest.mark.parametrize(
    ("option", "value"), [("mode", "l3"), ("epsilon", 0), ("epsilon", -1e-5), ("epsilon", True)], ids=str
)
def test_bad_options_are_refused(option: str, value: Any) -> None:
    with raises(sc.BadOption, owner="gct", option=option, value=value):
        sc.create("gct", C, **{option: value})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="gct", option="shape", value=shape):
        sc.create("gct", C)(torch.zeros(shape))


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("gct", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    assert_close("weights", recorded.weights, gate(dict(module.named_parameters()), x).detach())
