"""dnl equals the authors' formula with all weights in memory; the module itself never builds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

pytestmark = pytest.mark.usefixtures("without_all_weights")

C = 8


def softmax(logits: Tensor) -> Tensor:
    exponentials = torch.exp(logits - logits.amax(-1, keepdim=True).detach())
    return exponentials / exponentials.sum(-1, keepdim=True)


def pairwise_weights(p: Parameters, x: Tensor, temperature: float) -> Tensor:
    """(B, N, N), query by query."""
    q, k = (pointwise(p, name, x).flatten(2) for name in ("query", "key"))
    q, k = (z - z.mean(2, keepdim=True) for z in (q, k))
    logits = [(q[:, :, i, None] * k).sum(1) / q.shape[1] ** 0.5 / temperature for i in range(q.shape[2])]
    return softmax(torch.stack(logits, 1))


def plain(p: Parameters, x: Tensor, temperature: float = 0.05) -> Tensor:
    v = pointwise(p, "value", x).flatten(2)
    pairwise = torch.einsum("bij,bcj->bci", pairwise_weights(p, x, temperature), v)
    unary = torch.einsum("bj,bcj->bc", softmax(pointwise(p, "unary", x).flatten(1)), v)
    return x + (p["gamma"] * pairwise + unary[:, :, None]).reshape(x.shape)


@pytest.mark.parametrize("options", [{}, {"inner_channels": 3, "temperature": 0.7}], ids=str)
@pytest.mark.parametrize("shape", [(2, C, 5, 4), (1, C, 3, 6), (2, C, 1, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    temperature = options.get("temperature", 0.05)
    vanishing = ["query.bias", "key.bias", "unary.bias"]
    module = build("dnl", C, **options)
    assert_parity(module, lambda p, x: plain(p, x, temperature), normal(*shape), vanishing=vanishing)


def test_one_position() -> None:
    """All weights are 1: y = x + (gamma + 1) v."""
    module, x = build("dnl", C), normal(2, C, 1, 1)
    p = dict(module.named_parameters())
    assert_close("one", module(x), x + (p["gamma"] + 1) * pointwise(p, "value", x))


def test_gamma_multiplies_the_pairwise_term_alone() -> None:
    """At initialization all positions receive the same vector, the unary term."""
    module, x = sc.create("dnl", C).double(), normal(2, C, 5, 4)
    added = (module(x) - x).flatten(2)
    p = dict(module.named_parameters())
    assert_close("shared", added, added[:, :, :1].expand_as(added))
    assert_close("unary", added.reshape(x.shape), plain(p, x) - x)
    assert added.abs().max() > 0


def test_whitening_removes_what_all_queries_share() -> None:
    """A bias of the queries or the keys changes nothing."""
    module, x = build("dnl", C), normal(2, C, 5, 4)
    before = module(x)
    with torch.no_grad():
        for name in ("query.bias", "key.bias"):
            module.get_parameter(name).add_(3.0)
    assert_close("whitened", module(x), before)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("dnl", 16).parameters()]
    assert shapes == [(1,), *2 * [(8, 16, 1, 1), (8,)], (16, 16, 1, 1), (1, 16, 1, 1), (1,)]


def test_no_tensor_holds_all_pairs() -> None:
    module, x = sc.create("dnl", 8), torch.randn(1, 8, 64, 48)
    assert largest_tensor(module, x) <= 1 << 22 < (64 * 48) ** 2


def test_the_recorded_maps_are_the_weights() -> None:
    module, x = build("dnl", C), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    pairwise, unary = maps[""], maps["unary"]
    assert isinstance(pairwise, sc.PairwiseMap)
    assert isinstance(unary, sc.SpatialMap)
    p = dict(module.named_parameters())
    assert_close("pairwise", pairwise.weights()[:, 0], pairwise_weights(p, x, 0.05).detach())
    expected = softmax(pointwise(p, "unary", x).flatten(1)).detach()
    assert_close("unary", unary.weights.flatten(1), expected)


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [
        (1, {}, "inner_channels"),
        (8, {"inner_channels": 0}, "inner_channels"),
        (8, {"temperature": 0}, "temperature"),
    ],
    ids=str,
)
def test_bad_options_are_refused(channels: int, options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="dnl", option=option, value=options.get(option, 0)):
        sc.create("dnl", channels, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="dnl", option="shape", value=shape):
        sc.create("dnl", C)(torch.zeros(shape))
