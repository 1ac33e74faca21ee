"""simam equals its formula, and its gradient that of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.layers.mixed import simam as file
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import sigmoid

C = 6
SHAPES = [(2, C, 4, 4), (3, C, 7, 5), (1, C, 1, 2), (1, C, 9), (2, C, 3, 2, 4)]


def plain(x: Tensor, lam: float = 1e-4) -> Tensor:
    """One channel of one image at a time."""
    rows = []
    for row in x.reshape(-1, x[0, 0].numel()):
        mean = row.sum() / len(row)
        squares = (row - mean) ** 2
        variance = squares.sum() / (len(row) - 1)
        rows.append(row * sigmoid(squares / (4 * (variance + lam)) + 0.5))
    return torch.stack(rows).reshape(x.shape)


@pytest.mark.parametrize("values", [1, 1 << 20], ids=["one image at a time", "all images at once"])
@pytest.mark.parametrize("lam", [1e-4, 0.1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(
    shape: tuple[int, ...], lam: float, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_VALUES", values)

    def reference(_: Parameters, x: Tensor) -> Tensor:
        return plain(x, lam)

    assert_parity(build("simam", C, lam=lam), reference, normal(*shape))


def test_second_derivatives_are_those_of_finite_differences() -> None:
    x = normal(2, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(build("simam", 2), x)


def test_gradients_of_a_vectorized_call() -> None:
    module, x = build("simam", C), normal(3, C, 4, 3)
    each = torch.func.vmap(torch.func.grad(lambda image: module(image[None]).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf).square().sum(), leaf)
    assert_close("gradient", each, expected)


def test_the_variance_is_unbiased() -> None:
    """Two positions at -1 and 1 have the variance 2, not 1."""
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    weight = sigmoid(torch.tensor(1 / (4 * (2 + 1e-4)) + 0.5).double())
    torch.testing.assert_close(sc.create("simam", 1)(x), weight * x, rtol=1e-7, atol=0)


def test_a_constant_channel_has_the_least_weight() -> None:
    x = torch.full((1, C, 4, 3), 2.0, dtype=torch.float64)
    assert_close("sigma(1/2)", sc.create("simam", C)(x), x * sigmoid(torch.tensor(0.5).double()))


def test_the_outlier_has_the_largest_weight() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 1, 3] = 1
    weights = file.simam(x)[0, 0]
    assert weights.argmax().item() == 8
    assert weights.max() > 0.9 > 0.63 > weights.flatten().sort().values[-2]


def test_places_channels_and_images_are_independent() -> None:
    module, x = build("simam", C), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])
    assert_close("one channel", build("simam", 1)(x[1:, 2:3]), module(x)[1:, 2:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_of_squares_do_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    x = (1000 * torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    leaf = x.clone().requires_grad_()
    y = sc.create("simam", 2)(leaf)
    y.sum().backward()
    torch.testing.assert_close(y.float(), plain(x.float()), rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_there_are_no_parameters() -> None:
    assert not sc.create("simam", C).state_dict()


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("simam", 32), x) == x.numel()


def test_the_backward_pass_holds_the_input_alone() -> None:
    held: list[Tensor] = []

    def hold(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    x = torch.randn(2, C, 4, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        sc.create("simam", C)(x)
    assert [tensor.data_ptr() for tensor in held] == [x.data_ptr()]


def test_the_recorded_map_is_the_mean_weight_of_the_channels() -> None:
    module, x = build("simam", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1))


@pytest.mark.parametrize("shape", [(2, C, 1, 1), (1, C, 1), (2, C, 1, 1, 1)], ids=str)
def test_a_single_position_is_refused(shape: tuple[int, ...]) -> None:
    """The authors' code gives NaN."""
    with raises(sc.BadShape, owner="simam", option="shape", value=shape):
        sc.create("simam", C)(torch.zeros(shape))


@pytest.mark.parametrize("lam", [0, -1e-4, float("inf"), True, "small"])
def test_bad_options_are_refused(lam: object) -> None:
    with raises(sc.BadOption, owner="simam", option="lam", value=lam):
        sc.create("simam", C, lam=lam)


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (2, C), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="simam", option="shape", value=shape):
        sc.create("simam", C)(torch.zeros(shape))
