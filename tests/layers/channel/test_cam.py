"""cam equals its formula, one channel at a time, in every precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.layers.channel.cam import cam
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

C = 6
SHAPES = [(2, C, 4, 4), (3, C, 7, 5), (1, C, 2, 1), (2, C, 1, 1), (1, C, 9), (2, C, 3, 2, 4)]


def plain_weights(x: Tensor) -> Tensor:
    """(B, C, C) as in the authors' code: the products are taken from the largest one of their row."""
    rows = []
    for i in range(x.shape[1]):
        products = (x[:, i, None] * x).flatten(2).sum(2)
        exponentials = (products.max(1, keepdim=True).values - products).exp()
        rows.append(exponentials / exponentials.sum(1, keepdim=True))
    return torch.stack(rows, 1)


def plain(p: Parameters, x: Tensor) -> Tensor:
    return x + p["gamma"] * torch.einsum("bij,bj...->bi...", plain_weights(x), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(shape: tuple[int, ...]) -> None:
    """With more channels than positions and fewer, gamma multiplies the result or the weights."""
    assert_parity(build("cam", C), plain, normal(*shape))


def test_it_starts_as_the_identity() -> None:
    for shape in ((2, 32, 9, 7), (2, 32, 3, 3)):
        x = torch.randn(shape)
        assert torch.equal(sc.create("cam", 32)(x), x)


def test_gamma_is_the_only_parameter() -> None:
    state = sc.create("cam", 64).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {"gamma": (1,)}


def test_the_least_similar_channel_has_the_largest_weight() -> None:
    """The paper has a softmax of the products, which is the other way around."""
    x = torch.zeros(1, 3, 1, 4, dtype=torch.float64)
    x[0, 0], x[0, 1], x[0, 2] = 1, 0.5, -1
    weights = cam(x)[0]
    assert weights[0].argsort().tolist() == [0, 1, 2]
    assert weights[2].argsort().tolist() == [2, 1, 0]


def test_weights_are_normalized_over_the_channels_that_are_mixed() -> None:
    x = normal(2, C, 4, 3)
    weights = cam(x)
    assert_close("rows", weights.sum(2), torch.ones(2, C).double())
    assert not torch.allclose(weights.sum(1), torch.ones(2, C).double())
    assert_close("one image alone", cam(x[1:]), weights[1:])


def test_places_are_interchangeable() -> None:
    module, x = build("cam", C), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_do_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    """The products of similar channels are about 400,000: infinite in float16, off by 1,000 in bfloat16."""
    x = (10 * normal(1, 1, 64, 64) + normal(1, C, 64, 64, seed=1)).to(dtype)
    module = build("cam", C).to(dtype)
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    assert y.dtype is dtype
    rows, gamma = x.double().flatten(2), module.get_parameter("gamma").detach().double()
    expected = rows + gamma * (-rows @ rows.mT).softmax(2) @ rows  # the plain exponentials would overflow
    torch.testing.assert_close(y.double().flatten(2), expected, rtol=0, atol=40 * torch.finfo(dtype).eps)
    y.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_autocast_keeps_the_precision_of_the_input() -> None:
    module, x = build("cam", C).float(), normal(2, C, 7, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert torch.equal(y, module(x))


def test_the_recorded_weights_are_those_that_each_channel_receives() -> None:
    module, x = build("cam", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    assert_close("weights", recorded.weights, plain_weights(x).mean(1))


def test_no_tensor_is_larger_than_the_map_or_the_weights() -> None:
    for shape in ((2, 32, 24, 20), (2, 32, 3, 3)):
        x = torch.randn(shape)
        assert largest_tensor(sc.create("cam", 32), x) == max(x.numel(), 2 * 32**2)


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="cam", option="shape", value=shape):
        sc.create("cam", C)(torch.zeros(shape))


def test_no_channels_are_refused() -> None:
    with raises(sc.BadOption, owner="cam", option="channels", value=0):
        sc.create("cam", 0)
