"""class_attention equals timm's ClassAttn and the formula, written token by token."""

from __future__ import annotations

import pytest
import torch
from timm.models.cait import ClassAttn
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

C, HEADS = 12, 3


def project(p: Parameters, name: str, x: Tensor) -> Tensor:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def weights(p: Parameters, tokens: Tensor) -> Tensor:
    """(B, heads, N), token by token."""
    q = project(p, "query", tokens[:, 0])
    heads = []
    for head in range(HEADS):
        part = slice(head * C // HEADS, (head + 1) * C // HEADS)
        products = [
            (q[:, part] * project(p, "key", tokens[:, n])[:, part]).sum(1) for n in range(tokens.shape[1])
        ]
        exponentials = torch.exp(torch.stack(products, 1) / (C / HEADS) ** 0.5)
        heads.append(exponentials / exponentials.sum(1, keepdim=True))
    return torch.stack(heads, 1)


def reference(p: Parameters, tokens: Tensor) -> Tensor:
    values = project(p, "value", tokens).unflatten(2, (HEADS, -1))
    y = torch.einsum("bhn,bnhd->bhd", weights(p, tokens), values).flatten(1)
    return project(p, "proj", y)[:, None]


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 7, C), (1, 1, C), (2, 40, C)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], qkv_bias: bool) -> None:
    assert_parity(build("class_attention", C, heads=HEADS, qkv_bias=qkv_bias), reference, normal(*shape))


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_equals_timm(qkv_bias: bool) -> None:
    theirs = ClassAttn(C, HEADS, qkv_bias=qkv_bias).double()
    names = {"q": "query", "k": "key", "v": "value", "proj": "proj"}

    def timm(parameters: Parameters, x: Tensor) -> Tensor:
        layers = [name.split(".") for name, _ in theirs.named_parameters()]
        mapped = {f"{layer}.{kind}": parameters[f"{names[layer]}.{kind}"] for layer, kind in layers}
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    assert_parity(build("class_attention", C, heads=HEADS, qkv_bias=qkv_bias), timm, normal(3, 7, C))


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_parameters_are_those_of_the_authors_in_their_order(qkv_bias: bool) -> None:
    shapes = [tuple(p.shape) for p in sc.create("class_attention", 16, qkv_bias=qkv_bias).parameters()]
    one = [(16, 16), (16,)] if qkv_bias else [(16, 16)]
    assert shapes == [*3 * one, (16, 16), (16,)]


def test_the_class_token_alone_asks() -> None:
    """The order of the other tokens does not matter; the class token must be the first."""
    module, tokens = build("class_attention", C, heads=HEADS), normal(2, 7, C)
    order = torch.tensor([0, 5, 2, 6, 1, 3, 4])
    assert_close("permuted", module(tokens[:, order]), module(tokens))
    assert (module(tokens.flip(1)) - module(tokens)).abs().max() > 0.1


def test_the_recorded_map_holds_the_row_of_the_class_token() -> None:
    module, tokens = build("class_attention", C, heads=HEADS, qkv_bias=True), normal(2, 7, C)
    with sc.record(module) as maps:
        module(tokens)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    expected = weights(dict(module.named_parameters()), tokens).detach()
    assert_close("weights", recorded.weights()[:, :, 0], expected)
    assert_close("saliency", recorded.saliency(), expected.mean(1))


def test_neither_keys_nor_values_are_computed() -> None:
    tokens = torch.randn(2, 500, 32)
    assert largest_tensor(sc.create("class_attention", 32, qkv_bias=True), tokens) == tokens.numel()


def test_large_products_do_not_overflow() -> None:
    module = sc.create("class_attention", C, heads=HEADS).half()
    assert module(200 * normal(1, 5, C).half()).isfinite().all()


def test_bad_options_are_refused() -> None:
    with raises(sc.BadOption, owner="class_attention", option="channels", value=12):
        sc.create("class_attention", 12)
    with raises(sc.BadOption, owner="class_attention", option="heads", value=0):
        sc.create("class_attention", 12, heads=0)


@pytest.mark.parametrize("shape", [(2, 7, 33), (7, 32), (2, 32, 5, 5), (2, 0, 32)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="class_attention", option="shape", value=shape):
        sc.create("class_attention", 32)(torch.zeros(shape))
