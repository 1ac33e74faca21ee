"""double equals equations 3 to 5 of the paper, written out with all positions."""

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

C = 12


def attentions(p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, N) each: over positions for one descriptor, over descriptors for one position."""
    gather, distribute = (pointwise(p, name, x).flatten(2).exp() for name in ("gather", "distribute"))
    by_descriptor = [row / row.sum(1, keepdim=True) for row in gather.unbind(1)]
    by_position = [column / column.sum(1, keepdim=True) for column in distribute.unbind(2)]
    return torch.stack(by_descriptor, 1), torch.stack(by_position, 2)


def plain(p: Parameters, x: Tensor) -> Tensor:
    gather, distribute = attentions(p, x)
    descriptors = torch.einsum("bmi,bni->bmn", pointwise(p, "feature", x).flatten(2), gather)
    z = torch.einsum("bmn,bni->bmi", descriptors, distribute)
    return x + pointwise(p, "output", z).reshape(x.shape)


@pytest.mark.parametrize("options", [{}, {"inner_channels": 1}, {"inner_channels": 7}], ids=str)
@pytest.mark.parametrize("shape", [(2, C, 5, 4), (1, C, 3, 7), (2, C, 1, 5), (2, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_parity(build("double", C, **options), plain, normal(*shape))


def test_an_image_does_not_depend_on_its_batch() -> None:
    """A copy of the block runs a softmax over the batch."""
    module, x = build("double", C), normal(3, C, 5, 4)
    assert_close("alone", module(x[1:2]), module(x)[1:2])


def test_places_are_tokens() -> None:
    module, x = build("double", C), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


def test_parameters_in_the_order_of_the_equations() -> None:
    shapes = [(name, tuple(p.shape)) for name, p in sc.create("double", 16).named_parameters()]
    assert shapes == [
        (f"{name}.{kind}", shape)
        for name in ("feature", "gather", "distribute")
        for kind, shape in (("weight", (4, 16, 1, 1)), ("bias", (4,)))
    ] + [("output.weight", (16, 4, 1, 1)), ("output.bias", (16,))]


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(1, 16, 64, 64)
    assert largest_tensor(sc.create("double", 16), x) == x.numel()


def test_recorded_weights_are_the_product_of_both_attentions() -> None:
    module, x = build("double", C), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, DotProductMap)
    gather, distribute = attentions(dict(module.named_parameters()), x)
    weights = torch.einsum("bni,bnj->bij", distribute, gather).detach()
    assert_close("weights", recorded.weights()[:, 0], weights)
    assert_close("sums", recorded.weights().sum(3), torch.ones(2, 1, 20, dtype=x.dtype))


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [(3, {}, "channels"), (C, {"inner_channels": 0}, "inner_channels")],
    ids=str,
)
def test_bad_options_are_refused(channels: int, options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="double", option=option, value=options.get(option, channels)):
        sc.create("double", channels, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="double", option="shape", value=shape):
        sc.create("double", C)(torch.zeros(shape))
