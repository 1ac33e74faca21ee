"""grn equals its formula, and timm's GlobalResponseNorm; it is the identity at the start."""

from __future__ import annotations

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

C = 6


def plain(p: Parameters, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    norms = torch.stack([(x[:, c] ** 2).flatten(1).sum(1) ** 0.5 for c in range(C)], 1)
    response = norms / (norms.sum(1, keepdim=True) / C + epsilon)
    return torch.stack(
        [
            p["gamma"][0, 0, 0, c] * torch.einsum("b,b...->b...", response[:, c], x[:, c])
            + p["beta"][0, 0, 0, c]
            + x[:, c]
            for c in range(C)
        ],
        1,
    )


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 1), (2, C, 9), (2, C, 3, 4, 5)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], epsilon: float) -> None:
    assert_parity(build("grn", C, epsilon=epsilon), lambda p, x: plain(p, x, epsilon), normal(*shape))


def timm_grn(p: Parameters, x: Tensor) -> Tensor:
    theirs = {"weight": p["gamma"].flatten(), "bias": p["beta"].flatten()}
    result: Tensor = functional_call(GlobalResponseNorm(C, channels_last=False).double(), theirs, (x,))
    return result


@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (3, C, 1, 1)], ids=str)
def test_equals_timm(shape: tuple[int, ...]) -> None:
    assert_parity(build("grn", C), timm_grn, normal(*shape))


def test_a_channel_of_zeros_equals_timm() -> None:
    """The slope of a norm at 0 is taken as 0."""
    x = normal(2, C, 7, 5)
    x[:, ::2] = 0
    assert_parity(build("grn", C), timm_grn, x)


def test_initially_the_identity() -> None:
    x = torch.randn(2, C, 7, 5)
    assert torch.equal(sc.create("grn", C)(x), x)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    state = {name: (tuple(v.shape), v.any().item()) for name, v in sc.create("grn", C).state_dict().items()}
    assert [*state.items()] == [("gamma", ((1, 1, 1, C), False)), ("beta", ((1, 1, 1, C), False))]


def test_half_precision_does_not_overflow() -> None:
    """The norms exceed 65504, the range of float16; the features and the result do not."""
    module, x = build("grn", C), 1500 * normal(1, C, 64, 64)
    expected = module(x)
    got = module.half()(x.half())
    torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=1)


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, C, 24, 20)
    assert largest_tensor(sc.create("grn", C), x) == x.numel()


@pytest.mark.parametrize("epsilon", [0, -1e-6, float("nan")])
def test_bad_options_are_refused(epsilon: float) -> None:
    with raises(sc.BadOption, owner="grn", option="epsilon"):
        sc.create("grn", C, epsilon=epsilon)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="grn", option="shape", value=shape):
        sc.create("grn", C)(torch.zeros(shape))


def test_recorded_weights_are_the_factors() -> None:
    module, x = build("grn", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    beta = dict(module.named_parameters())["beta"].reshape(C, 1, 1)
    assert_close("weights", recorded.weights, ((y - beta) / x)[:, :, 3, 2].detach())
