"""neighborhood equals its formula, written as a loop over positions and their neighbors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.maps import NeighborhoodMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, HEADS = 12, 3


def neighbors(i: int, length: int, size: int, dilation: int) -> list[int]:
    """The window of `size` positions around i, moved inward step by step until it fits."""
    same = [j for j in range(length) if j % dilation == i % dilation]
    start = same.index(i) - size // 2
    while start + size > len(same):
        start -= 1
    while start < 0:
        start += 1
    return same[start : start + size]


def plain_weights(p: Parameters, x: Tensor, size: int, dilation: int) -> Tensor:
    """(B, heads, H, W, H, W), one query at a time."""
    height, width = x.shape[2:]
    q, k, _ = pointwise(p, "qkv", x).unflatten(1, (3, HEADS, -1)).unbind(1)
    result = torch.zeros(len(x), HEADS, height, width, height, width, dtype=x.dtype)
    for y in range(height):
        for z in range(width):
            rows, columns = neighbors(y, height, size, dilation), neighbors(z, width, size, dilation)
            places = [(i, j) for i in rows for j in columns]
            products = [(q[..., y, z] * k[..., i, j]).sum(2) / (C / HEADS) ** 0.5 for i, j in places]
            exponents = torch.stack(products).exp()
            for weight, (i, j) in zip(exponents / exponents.sum(0), places, strict=True):
                result[:, :, y, z, i, j] = weight
    return result


def plain(p: Parameters, x: Tensor, size: int = 7, dilation: int = 1) -> Tensor:
    values = pointwise(p, "qkv", x).unflatten(1, (3, HEADS, -1))[:, 2]
    mixed = torch.einsum("bhyzij,bhdij->bhdyz", plain_weights(p, x, size, dilation), values)
    return pointwise(p, "proj", mixed.flatten(1, 2))


@pytest.mark.parametrize(
    ("shape", "size", "dilation"),
    [
        ((2, C, 5, 6), 3, 1),
        ((1, C, 17, 9), 3, 1),
        ((2, C, 10, 7), 7, 1),
        ((1, C, 11, 4), 4, 1),
        ((1, C, 9, 18), 8, 1),
        ((2, C, 7, 9), 3, 2),
        ((1, C, 11, 10), 2, 3),
        ((1, C, 5, 3), 7, 1),
        ((2, C, 7, 3), 3, 4),
        ((2, C, 3, 4), 1, 1),
        ((2, C, 1, 1), 3, 2),
        ((2, C, 1, 6), 3, 1),
    ],
    ids=str,
)
def test_equals_the_formula(shape: tuple[int, ...], size: int, dilation: int) -> None:
    module = build("neighborhood", C, size=size, heads=HEADS, dilation=dilation)
    assert_parity(module, lambda p, x: plain(p, x, size, dilation), normal(*shape))


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8])
def test_every_side_of_every_length_keeps_its_neighborhoods(size: int, dilation: int) -> None:
    """Tiles must hold the whole region of their neighborhoods, whatever the remainder of the length."""
    for length in range(1, 36):
        value = torch.eye(length, dtype=torch.float64)[None, None, :, None]
        zeros = torch.zeros(1, 1, length, 1, length, dtype=torch.float64)
        mixed = sc.spec("neighborhood").function(zeros, zeros, value, size, dilation)[0, 0, :, 0]
        for i, row in enumerate(mixed):
            expected = neighbors(i, length, size, dilation)
            assert row.nonzero().flatten().tolist() == expected
            assert_close("the weights", row[expected] * len(expected), torch.ones_like(row[expected]))


def test_a_large_neighborhood_is_that_of_all_positions() -> None:
    ours, x = build("neighborhood", C, size=9, heads=HEADS), normal(2, C, 5, 4)
    theirs = sc.create("multi_head", C, heads=HEADS).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.get_parameter("qkv.weight"),
            "in_proj_bias": ours.get_parameter("qkv.bias"),
            "out_proj.weight": ours.get_parameter("proj.weight"),
            "out_proj.bias": ours.get_parameter("proj.bias"),
        }
    )
    assert_close("the output", ours(x), theirs(x))


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    module = sc.create("neighborhood", 64)
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    assert shapes == [
        ("qkv.weight", (192, 64)),
        ("qkv.bias", (192,)),
        ("proj.weight", (64, 64)),
        ("proj.bias", (64,)),
    ]
    assert module.get_parameter("qkv.weight").std().item() == pytest.approx(0.02, rel=0.05)


def test_memory_grows_with_the_number_of_positions() -> None:
    """At most 4 values of the region per key, and 225 weights per query and head for 49 neighbors."""
    x = torch.randn(1, 16, 64, 64)
    assert largest_tensor(sc.create("neighborhood", 16, heads=2), x) < 64 * 64 * 400


@pytest.mark.parametrize("shape", [(2, C, 6, 5), (2, C, 2, 9)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_recorded_weights_equal_the_formula(shape: tuple[int, ...], dilation: int) -> None:
    module, x = build("neighborhood", C, size=3, heads=HEADS, dilation=dilation), normal(*shape)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, NeighborhoodMap)
    expected = plain_weights(dict(module.named_parameters()), x, 3, dilation).detach()
    assert_close("weights", recorded.weights(), expected.flatten(4).flatten(2, 3))
    assert_close("received", recorded.attention_received(), expected.mean((1, 2, 3)))
    assert_close("one row", recorded.attention_from(y=1, x=2, head=2), expected[:, 2, 1, 2])


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"heads": 5}, "channels"),
        ({"heads": 0}, "heads"),
        ({"size": 0}, "size"),
        ({"dilation": 0}, "dilation"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="neighborhood", option=option, value=options.get(option, C)):
        sc.create("neighborhood", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="neighborhood", option="shape", value=shape):
        sc.create("neighborhood", C, heads=HEADS)(torch.zeros(shape))
