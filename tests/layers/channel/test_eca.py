"""eca equals timm's EcaModule and its formula, a sum over neighboring channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.eca import EcaModule
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import sigmoid


def formula(parameters: Parameters, x: Tensor) -> Tensor:
    means, (weight,) = x.flatten(2).mean(-1), parameters["conv.weight"][0]
    channels, reach = means.shape[1], len(weight) // 2
    logits = [
        sum(
            (
                weight[k] * means[:, c + k - reach]
                for k in range(len(weight))
                if 0 <= c + k - reach < channels
            ),
            start=torch.zeros((), dtype=x.dtype),
        )
        for c in range(channels)
    ]
    gate = sigmoid(torch.stack(logits, 1))
    return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("kernel_size", [None, 1, 3, 7, 33], ids=str)
@pytest.mark.parametrize("shape", [(2, 24, 8, 8), (1, 24, 7, 5), (3, 24, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], kernel_size: int | None) -> None:
    assert_parity(build("eca", 24, kernel_size=kernel_size), formula, normal(*shape))


@pytest.mark.parametrize("shape", [(2, 24, 9), (2, 24, 3, 4, 5)], ids=str)
def test_sequences_and_clips(shape: tuple[int, ...]) -> None:
    assert_parity(build("eca", 24), formula, normal(*shape))


@pytest.mark.parametrize("channels", [8, 24, 64, 100, 128, 512, 1024, 2048])
def test_equals_timm_with_the_same_kernel(channels: int) -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(EcaModule(channels).double(), dict(parameters), (x,))
        return result

    assert_parity(build("eca", channels), reference, normal(2, channels, 3, 2))


@pytest.mark.parametrize(
    ("channels", "kernel"),
    [(1, 1), (2, 1), (8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_the_kernel_follows_the_number_of_channels(channels: int, kernel: int) -> None:
    state = sc.create("eca", channels).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {"conv.weight": (1, 1, kernel)}
    assert sc.create("eca", channels)(torch.randn(2, channels, 3, 2)).shape == (2, channels, 3, 2)


def test_the_first_channel_does_not_see_the_last() -> None:
    module, x = build("eca", 24, kernel_size=5), normal(2, 24, 7, 5)
    changed = x.clone()
    changed[:, -1] += 1
    assert_close("the first channels", module(changed)[:, :21].detach(), module(x)[:, :21].detach())
    assert not torch.allclose(module(changed)[:, 21], module(x)[:, 21])


@pytest.mark.parametrize("kernel_size", [4, 0, 3.0])
def test_bad_options_are_refused(kernel_size: Any) -> None:
    with raises(sc.BadOption, owner="eca", option="kernel_size", value=kernel_size):
        sc.create("eca", 24, kernel_size=kernel_size)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"hidden": 0}, "hidden"),
        ({"hidden": "all"}, "hidden"),
        ({"padding": "same"}, "padding"),
        ({"padding": "circular", "kernel_size": 51}, "kernel_size"),
    ],
    ids=str,
)
def test_bad_forms_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="eca", option=option, value=options[option]):
        sc.create("eca", 24, **options)
    assert sc.create("eca", 24, padding="circular", kernel_size=49)(torch.randn(1, 24, 2, 2)).isfinite().all()


def test_with_circular_padding_the_first_channel_sees_the_last() -> None:
    module, x = build("eca", 24, kernel_size=5, padding="circular"), normal(2, 24, 7, 5)
    changed = x.clone()
    changed[:, -1] += 1
    assert_close("the others", module(changed)[:, 2:21].detach(), module(x)[:, 2:21].detach())
    assert not torch.allclose(module(changed)[:, :2], module(x)[:, :2])


@pytest.mark.parametrize("shape", [(2, 25, 4, 4), (2, 24), (0, 24, 4, 4), (2, 10, 24)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="eca", option="shape", value=shape):
        sc.create("eca", 24)(torch.zeros(shape))


def test_nan_propagates() -> None:
    x = torch.full((1, 24, 4, 4), float("nan"))
    assert sc.create("eca", 24)(x).isnan().all()


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("eca", 24), normal(2, 24, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    torch.testing.assert_close(recorded.weights[:, :, None, None] * x, y.detach())
