"""criss_cross equals its formula, written as a loop over positions; no tensor holds all pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.maps import CrissCrossMap
from saccade.ops.criss_cross_attention import criss_cross_attention
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, REDUCTION = 12, 4


def weights(q: Tensor, k: Tensor) -> Tensor:
    """Return the weights of all pairs of positions, (B, H, W, H, W), position by position."""
    batch, _, height, width = q.shape
    result = torch.zeros(batch, height, width, height, width, dtype=q.dtype)
    for y in range(height):
        for x in range(width):
            places = [(y, j) for j in range(width)] + [(i, x) for i in range(height) if i != y]
            products = [(q[:, :, y, x] * k[:, :, i, j]).sum(1) for i, j in places]
            exponents = torch.exp(torch.stack(products, 1))
            for weight, (i, j) in zip((exponents / exponents.sum(1, keepdim=True)).mT, places, strict=True):
                result[:, y, x, i, j] = weight
    return result


def plain(p: Parameters, x: Tensor, recurrence: int = 1) -> Tensor:
    for _ in range(recurrence):
        q, k, v = (pointwise(p, name, x) for name in ("query", "key", "value"))
        x = x + p["gamma"] * torch.einsum("byxij,bcij->bcyx", weights(q, k), v)
    return x


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("options", [{}, {"reduction": 12}, {"recurrence": 2}], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, C, 5, 4), (1, C, 3, 6), (2, C, 1, 5), (2, C, 5, 1), (2, C, 1, 1)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module = build("criss_cross", C, **{"reduction": REDUCTION, **options})
    assert_parity(module, lambda p, x: plain(p, x, options.get("recurrence", 1)), normal(*shape))


@pytest.mark.usefixtures("either_form")
def test_channels_last_equals_the_formula() -> None:
    x = normal(2, C, 5, 4).to(memory_format=torch.channels_last)
    assert_parity(build("criss_cross", C, reduction=REDUCTION), plain, x)


def test_a_position_counts_once() -> None:
    """Equal products: each of the H + W - 1 positions has the same weight."""
    zeros, value = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    value[..., 1, 2] = 6
    expected = [[0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]]
    assert criss_cross_attention(zeros, zeros, value)[0, 0].tolist() == [
        [pytest.approx(weight) for weight in row] for row in expected
    ]


def test_twice_reaches_every_position() -> None:
    for recurrence, reached in ((1, 5 + 4 - 1), (2, 5 * 4)):
        module = build("criss_cross", C, reduction=REDUCTION, recurrence=recurrence)
        x = normal(1, C, 5, 4).requires_grad_()
        (gradient,) = torch.autograd.grad(module(x)[0, :, 3, 1].sum(), x)
        assert int((gradient.abs().sum(1) > 0).sum()) == reached
    shared = sc.create("criss_cross", 16, recurrence=2)
    assert len([*shared.parameters()]) == 7


def test_initially_the_identity() -> None:
    x = torch.randn(2, 16, 7, 5)
    assert torch.equal(sc.create("criss_cross", 16, recurrence=2)(x), x)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(parameter.shape) for parameter in sc.create("criss_cross", 16).parameters()]
    narrow = [(2, 16, 1, 1), (2,)]
    assert shapes == [(1,), *narrow, *narrow, (16, 16, 1, 1), (16,)]


@pytest.mark.usefixtures("either_form")
def test_large_products_do_not_overflow() -> None:
    q, v = 300 * normal(1, 4, 6, 5), normal(1, 4, 6, 5)
    expected = torch.einsum("byxij,bcij->bcyx", weights(q / 300, q / 300), v)
    assert_close("scaled", criss_cross_attention(q / 300, q / 300, v), expected)
    assert criss_cross_attention(q, q, v).isfinite().all()
    assert criss_cross_attention(q.half(), q.half(), v.half()).isfinite().all()


@pytest.mark.usefixtures("without_all_weights")
def test_no_tensor_holds_all_pairs_and_no_weights_are_kept() -> None:
    module, x = sc.create("criss_cross", 8), torch.randn(1, 8, 64, 48)
    assert largest_tensor(module, x) <= 64 * 48 * 64
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x.requires_grad_())
    assert max(kept) == x.numel()


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [(4, {}, "channels"), (8, {"reduction": 0}, "reduction"), (8, {"recurrence": 0}, "recurrence")],
    ids=str,
)
def test_bad_options_are_refused(channels: int, options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="criss_cross", option=option, value=options.get(option, channels)):
        sc.create("criss_cross", channels, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="criss_cross", option="shape", value=shape):
        sc.create("criss_cross", C)(torch.zeros(shape))


@pytest.mark.parametrize("recurrence", [1, 2])
def test_recorded_weights_are_those_of_the_last_application(recurrence: int) -> None:
    module = build("criss_cross", C, reduction=REDUCTION, recurrence=recurrence)
    x, p = normal(2, C, 5, 4), dict(module.named_parameters())
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, CrissCrossMap)
    last = plain(p, x, recurrence - 1)
    expected = weights(pointwise(p, "query", last), pointwise(p, "key", last)).detach()
    assert_close("weights", recorded.weights()[:, 0], expected.flatten(3).flatten(1, 2))
    assert_close("received", recorded.attention_received(), expected.mean((1, 2)))
    assert_close("one row", recorded.attention_from(y=3, x=1), expected[:, 3, 1])
