"""efficient equals its formula, written head by head with the weights of all pairs of positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.maps import DotProductMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, HEADS = 12, 3


def plain_weights(p: Parameters, x: Tensor) -> Tensor:
    """(B, heads, N, N): sum over the channels of a head of softmaxed queries times softmaxed keys."""
    q, k = (pointwise(p, name, x).flatten(2).exp() for name in ("queries", "keys"))
    width = q.shape[1] // HEADS
    heads = []
    for head in range(HEADS):
        channels = slice(head * width, (head + 1) * width)
        query = q[:, channels] / q[:, channels].sum(1, keepdim=True)
        key = k[:, channels] / k[:, channels].sum(2, keepdim=True)
        heads.append(torch.stack([query[:, c, :, None] * key[:, c, None] for c in range(width)]).sum(0))
    return torch.stack(heads, 1)


def plain(p: Parameters, x: Tensor) -> Tensor:
    values = pointwise(p, "values", x).flatten(2).unflatten(1, (HEADS, -1))
    mixed = torch.einsum("bhij,bhdj->bhdi", plain_weights(p, x), values).reshape(x.shape)
    return x + pointwise(p, "reprojection", mixed)


@pytest.mark.parametrize("options", [{}, {"key_channels": 3}, {"key_channels": 18}], ids=str)
@pytest.mark.parametrize("shape", [(2, C, 5, 4), (1, C, 3, 7), (2, C, 1, 5), (2, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_parity(build("efficient", C, heads=HEADS, **options), plain, normal(*shape))


def test_places_are_tokens() -> None:
    module, x = build("efficient", C, heads=HEADS), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("efficient", 16, key_channels=8).parameters()]
    narrow, wide = [(8, 16, 1, 1), (8,)], [(16, 16, 1, 1), (16,)]
    assert shapes == [*narrow, *narrow, *wide, *wide]
    assert [name for name, _ in sc.create("efficient", 16).named_children()][:2] == ["keys", "queries"]


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(1, 16, 64, 64)
    assert largest_tensor(sc.create("efficient", 16), x) == x.numel()


def test_recorded_weights_equal_the_formula() -> None:
    module, x = build("efficient", C, heads=HEADS), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, DotProductMap)
    assert_close("weights", recorded.weights(), plain_weights(dict(module.named_parameters()), x).detach())
    assert_close("sums", recorded.weights().sum(3), torch.ones(2, HEADS, 20, dtype=x.dtype))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"heads": 5}, "channels"),
        ({"heads": 0}, "heads"),
        ({"key_channels": 7}, "key_channels"),
        ({"key_channels": 0}, "key_channels"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="efficient", option=option, value=options.get(option, C)):
        sc.create("efficient", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="efficient", option="shape", value=shape):
        sc.create("efficient", C, heads=HEADS)(torch.zeros(shape))
