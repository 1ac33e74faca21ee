"""xca equals its formula and timm's XCA, with few positions and, as one matrix per image, with many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.xcit import XCA
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

C, HEADS = 12, 3
FEW, MANY = (2, C, 5, 4), (2, C, 9, 5)  # 20 and 45 positions, on both sides of 2 C = 24


def plain(p: Parameters, x: Tensor, heads: int = HEADS) -> Tensor:
    return output(p, x, *weights_and_values(p, x, heads))


def weights_and_values(p: Parameters, x: Tensor, heads: int = HEADS) -> tuple[Tensor, Tensor]:
    projected = torch.einsum("oc,bcn->bon", p["qkv.weight"], x.flatten(2))
    if "qkv.bias" in p:
        projected = projected + p["qkv.bias"][:, None]
    q, k, v = (part.unflatten(1, (heads, -1)) for part in projected.chunk(3, dim=1))
    norms = [(z**2).sum(-1).sqrt() for z in (q, k)]
    cosine = torch.einsum("bhin,bhjn->bhij", q, k) / norms[0][..., :, None] / norms[1][..., None, :]
    exponent = torch.exp(cosine * p["temperature"])
    return exponent / exponent.sum(-1, keepdim=True), v


def output(p: Parameters, x: Tensor, weights: Tensor, v: Tensor) -> Tensor:
    mixed = torch.einsum("bhij,bhjn->bhin", weights, v).flatten(1, 2)
    result = torch.einsum("oc,bcn->bon", p["proj.weight"], mixed) + p["proj.bias"][:, None]
    return result.reshape(x.shape)


def timm_xca(p: Parameters, x: Tensor) -> Tensor:
    """timm's module, whose tokens are rows, with our parameters, whose names are the same."""
    module = XCA(C, HEADS, qkv_bias="qkv.bias" in p).double()
    tokens: Tensor = functional_call(module, dict(p), (x.flatten(2).mT,))
    return tokens.mT.reshape(x.shape)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [FEW, MANY, (1, C, 1, 1), (2, C, 7), (2, C, 2, 4, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], bias: bool) -> None:
    assert_parity(build("xca", C, heads=HEADS, bias=bias), plain, normal(*shape))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [FEW, MANY], ids=str)
def test_equals_timm(shape: tuple[int, ...], bias: bool) -> None:
    assert_parity(build("xca", C, heads=HEADS, bias=bias), timm_xca, normal(*shape))


@pytest.mark.parametrize("shape", [FEW, MANY], ids=str)
def test_the_scale_of_queries_and_keys_does_not_matter(shape: tuple[int, ...]) -> None:
    """Both are normalized, so that there is no 1 / sqrt(d): only the temperature scales the logits."""
    module, x = build("xca", C, heads=HEADS), normal(*shape)
    before = module(x)
    with torch.no_grad():
        module.get_parameter("qkv.weight")[: 2 * C] *= 7
    assert_close("scaled", module(x), before)
    with torch.no_grad():
        module.get_parameter("temperature").mul_(7)
    assert not torch.allclose(module(x), before)


def test_the_order_of_positions_does_not_matter() -> None:
    """Channels attend to channels: a permutation of the positions permutes the result."""
    module, x = build("xca", C, heads=HEADS), normal(*FEW)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].reshape(FEW)
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


@pytest.mark.parametrize("shape", [(2, 32, 4, 4), (2, 32, 16, 16)], ids=str)
def test_maps_of_zeros_give_finite_values_and_gradients(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float16, torch.float32):
        module, x = sc.create("xca", 32).to(dtype), torch.zeros(shape, dtype=dtype).requires_grad_()
        module(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_large_maps_of_half_precision_do_not_overflow() -> None:
    """The products of queries and keys exceed 65504, the range of float16."""
    module, x = build("xca", 32, heads=4), 10 * normal(1, 32, 64, 64)
    expected = module(x)
    assert torch.einsum("bcn,bcn->bc", x.flatten(2), x.flatten(2)).min() > 65504
    torch.testing.assert_close(module.half()(x.half()).double(), expected, rtol=0.02, atol=0.5)


def test_no_tensor_holds_pairs_of_positions() -> None:
    assert largest_tensor(sc.create("xca", 8), torch.randn(1, 8, 64, 64)) <= 2 * 8 * 4096


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    module = sc.create("xca", 128, bias=True)
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    assert shapes == [(8, 1, 1), (384, 128), (384,), (128, 128), (128,)]
    state = module.state_dict()
    assert (state["temperature"] == 1).all()
    assert state["qkv.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert not state["qkv.bias"].any()
    assert not state["proj.bias"].any()
    assert "qkv.bias" not in sc.create("xca", 128).state_dict()


@pytest.mark.parametrize(
    ("options", "option"), [({"heads": 5}, "channels"), ({"heads": 0}, "heads"), ({}, "channels")], ids=str
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="xca", option=option, value=options.get(option, C)):
        sc.create("xca", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="xca", option="shape", value=shape):
        sc.create("xca", C, heads=HEADS)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [FEW, MANY], ids=str)
def test_recorded_weights_are_those_that_values_receive(shape: tuple[int, ...]) -> None:
    module, x = build("xca", C, heads=HEADS), normal(*shape)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    weights, values = weights_and_values(dict(module.named_parameters()), x)
    received = weights.mean(2).flatten(1).detach()
    assert_close("weights", recorded.weights, received)
    energy = torch.einsum("bc,bcn->bn", received, values.flatten(1, 2).abs()).reshape(2, *shape[2:])
    assert_close("energy", recorded.energy, energy.detach())
