"""pam equals equations 1 and 2 of the paper, written out."""

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

C = 24
SHAPES = [(2, C, 4, 4), (3, C, 5, 3), (2, C, 7, 5), (1, C, 2, 13), (2, C, 1, 1)]  # N below and above C


def plain_weights(p: Parameters, x: Tensor) -> Tensor:
    """(B, N, N), one query at a time, softmax over the keys."""
    q, k = pointwise(p, "query", x).flatten(2), pointwise(p, "key", x).flatten(2)
    rows = []
    for i in range(q.shape[2]):
        exponentials = torch.einsum("bc,bcj->bj", q[:, :, i], k).exp()
        rows.append(exponentials / exponentials.sum(1, keepdim=True))
    return torch.stack(rows, 1)


def plain(p: Parameters, x: Tensor) -> Tensor:
    values = pointwise(p, "value", x).flatten(2)
    mixed = torch.einsum("bij,bcj->bci", plain_weights(p, x), values)
    result: Tensor = x + p["gamma"] * mixed.unflatten(2, x.shape[2:])
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"reduction": 1}, {"reduction": 5}, {"reduction": C}], ids=str)
def test_equals_the_formula(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_parity(build("pam", C, **options), plain, normal(*shape))


def test_equals_self_attention() -> None:
    """The module follows that of SAGAN: the same layers in the same order."""
    ours, theirs = build("pam", C), build("self_attention", C)
    theirs.load_state_dict(ours.state_dict())
    x = normal(2, C, 7, 5)
    assert_close("the output", ours(x), theirs(x))


def test_it_starts_as_the_identity() -> None:
    for shape in ((2, 32, 9, 7), (2, 32, 4, 4)):
        x = torch.randn(shape)
        assert torch.equal(sc.create("pam", 32)(x), x)


def test_the_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [(name, tuple(p.shape)) for name, p in sc.create("pam", 64).named_parameters()]
    assert shapes == [
        ("gamma", (1,)),
        ("query.weight", (8, 64, 1, 1)),
        ("query.bias", (8,)),
        ("key.weight", (8, 64, 1, 1)),
        ("key.bias", (8,)),
        ("value.weight", (64, 64, 1, 1)),
        ("value.bias", (64,)),
    ]


@pytest.mark.parametrize("size", [(4, 5), (5, 7)], ids=str)
def test_pixels_are_tokens(size: tuple[int, int]) -> None:
    """A permutation of the pixels permutes the result: no reshape mixes pixels with channels."""
    module, x = build("pam", C), normal(2, C, *size)
    order = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, size)
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


def test_recorded_weights_equal_the_formula() -> None:
    module, x = build("pam", C), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert recorded.query_shape == recorded.key_shape == (5, 4)
    expected = plain_weights(dict(module.named_parameters()), x).detach()
    assert_close("weights", recorded.weights()[:, 0], expected)


def test_no_tensor_holds_all_pairs_of_a_large_map() -> None:
    assert largest_tensor(sc.create("pam", 16), torch.randn(1, 16, 128, 128)) < 16384**2 / 8


def test_weights_that_are_held_are_no_larger_than_the_map() -> None:
    for size in ((4, 4), (4, 6), (5, 5)):
        x = torch.randn(2, C, *size)
        assert largest_tensor(sc.create("pam", C), x) <= max(x.numel(), 2 * 25**2)


def test_products_do_not_overflow_in_half_precision() -> None:
    module = build("pam", C).half()
    x = (60 * normal(2, C, 4, 4)).half()
    assert module(x).isfinite().all()


@pytest.mark.parametrize(
    ("options", "option"),
    [({"reduction": 25}, "channels"), ({"reduction": 0}, "reduction"), ({"reduction": 1.5}, "reduction")],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="pam", option=option, value=options.get(option, C)):
        sc.create("pam", C, **options)


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (2, C, 10), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="pam", option="shape", value=shape):
        sc.create("pam", C)(torch.zeros(shape))
