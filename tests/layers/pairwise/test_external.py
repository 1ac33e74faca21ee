"""external equals the formula of the authors' code, layer by layer, batch statistics included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise, relu

C, SIZE = 12, 5


def softmax(p: Parameters, x: Tensor) -> Tensor:
    """(B, S, N), one unit of the memory after the other, over positions."""
    exponents = pointwise(p, "linear_0", pointwise(p, "conv1", x).flatten(2)).exp()
    return torch.stack([unit / unit.sum(1, keepdim=True) for unit in exponents.unbind(1)], 1)


def plain(norm: BatchNorms, p: Parameters, x: Tensor) -> Tensor:
    weights = softmax(p, x)
    columns = [column / (1e-9 + column.sum(1, keepdim=True)) for column in weights.unbind(2)]
    values = pointwise(p, "linear_1", torch.stack(columns, 2)).reshape(x.shape)
    return relu(x + norm(p, "conv2.1", pointwise(p, "conv2.0", values)))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [2, SIZE, 64])
@pytest.mark.parametrize("shape", [(2, C, 5, 4), (1, C, 3, 7), (2, C, 1, 5)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], size: int, training: bool) -> None:
    module = build("external", C, size=size)
    module(normal(3, C, 5, 5, seed=1))
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: plain(norm, p, x), normal(*shape), vanishing=["conv1.bias"])
    if training:
        norm.assert_running()


def test_one_position_has_equal_weights() -> None:
    module = build("external", C, size=SIZE).eval()
    x, norm = normal(2, C, 1, 1), BatchNorms(module)
    assert_close("the output", module(x), plain(norm, dict(module.named_parameters()), x))


def test_the_memory_starts_as_its_transpose_without_shared_storage() -> None:
    torch.manual_seed(0)
    module = sc.create("external", 128)
    first, second = (module.get_parameter(f"linear_{i}.weight") for i in (0, 1))
    assert torch.equal(first, second.transpose(0, 1))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert first.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [(name, tuple(p.shape)) for name, p in sc.create("external", 16).named_parameters()]
    assert shapes == [
        ("conv1.weight", (16, 16, 1, 1)),
        ("conv1.bias", (16,)),
        ("linear_0.weight", (64, 16, 1)),
        ("linear_1.weight", (16, 64, 1)),
        ("conv2.0.weight", (16, 16, 1, 1)),
        ("conv2.1.weight", (16,)),
        ("conv2.1.bias", (16,)),
    ]


def test_weights_are_normalized_over_positions_and_then_over_units() -> None:
    both = sc.spec("external").function(normal(2, 5, 20))
    assert_close("positions", both[0].sum(2), torch.ones(2, 5, dtype=torch.float64))
    ones = torch.ones(2, 20, dtype=torch.float64)
    torch.testing.assert_close(both[1].sum(1), ones, rtol=1e-7, atol=0)
    half = sc.spec("external").function(normal(1, 64, 20000).half())
    assert half[1].sum(1).sub(1).abs().max() < 1e-4  # in half precision, weights of 1 / 20000 are inaccurate


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(1, 16, 64, 64)
    assert largest_tensor(sc.create("external", 16, size=8), x) == x.numel()


def test_the_recorded_map_is_the_mean_over_units() -> None:
    module, x = build("external", C, size=SIZE), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    expected = softmax(dict(module.named_parameters()), x).detach().mean(1).reshape(2, 5, 4)
    assert_close("weights", recorded.weights, expected)


@pytest.mark.parametrize("size", [0, 1.5])
def test_bad_options_are_refused(size: Any) -> None:
    with raises(sc.BadOption, owner="external", option="size", value=size):
        sc.create("external", C, size=size)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4), (1, C, 1, 1)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="external", option="shape", value=shape):
        sc.create("external", C)(torch.zeros(shape))
