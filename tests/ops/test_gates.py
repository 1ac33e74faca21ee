"""Gates and pools with hand-written gradients: values and gradients are those of the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.ops import gates, plain_gates


def plain_pools(x: Tensor, dim: int) -> Tensor:
    return torch.stack([x.mean(dim), x.max(dim).values])


def pools(x: Tensor, dim: int) -> Tensor:
    return torch.stack(gates.mean_and_maximum(x, dim))


Pair = tuple[Callable[..., Tensor], Callable[..., Tensor], Sequence[tuple[int, ...]]]
PAIRS: dict[str, Pair] = {
    "scale channels": (gates.scale, torch.mul, [(3, 5, 4, 6), (3, 5, 1, 1)]),
    "scale places": (gates.scale, torch.mul, [(3, 5, 4, 6), (3, 1, 4, 6)]),
    "scale all": (gates.scale, torch.mul, [(3, 5, 4), (3, 5, 4)]),
    "scale by one gate": (gates.scale, torch.mul, [(3, 5, 4), (1, 5, 1)]),
    "mean": (gates.mean, lambda x: x.mean(-1), [(3, 5, 7)]),
    "pools of places": (lambda x: pools(x, 2), lambda x: plain_pools(x, 2), [(3, 5, 7)]),
    "pools of channels": (lambda x: pools(x, 1), lambda x: plain_pools(x, 1), [(3, 5, 4, 6)]),
}


@pytest.fixture(params=[1, plain_gates._PRODUCTS], ids=["image by image", "at once"], autouse=True)
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the products of one image, or of maps so small that the formulas are used."""
    monkeypatch.setattr(plain_gates, "_PRODUCTS", request.param)


def leaves(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes
    ]


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    ours, plain, shapes = PAIRS[name]
    inputs = leaves(shapes)
    y, expected = ours(*inputs), plain(*inputs)
    assert torch.equal(y, expected)
    weight = torch.rand_like(y)
    gradients, references = (torch.autograd.grad(output, inputs, weight) for output in (y, expected))
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_second_derivatives_are_those_of_finite_differences(name: str) -> None:
    ours, _, shapes = PAIRS[name]
    small = [tuple(min(extent, 3) for extent in shape) for shape in shapes]
    assert torch.autograd.gradgradcheck(ours, leaves(small))


@pytest.mark.parametrize("name", PAIRS)
def test_functional_gradients_and_vmap(name: str) -> None:
    ours, plain, shapes = PAIRS[name]
    inputs = [x.detach() for x in leaves([(4, *shape) for shape in shapes])]

    def of(call: Callable[..., Tensor]) -> Tensor:
        each = torch.func.vmap(torch.func.grad(lambda *x: call(*x).square().sum()))
        gradient: Tensor = each(*inputs)
        return gradient

    torch.testing.assert_close(of(ours), of(plain), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 2])
def test_equal_values_share_the_gradient_of_the_maximum_only_where_it_is_compiled(dim: int) -> None:
    x = torch.tensor([3.0, 1.0, 3.0, 3.0]).reshape((1, 4, 1) if dim == 1 else (1, 1, 4)).requires_grad_()

    def gradient(pools: Callable[..., Any]) -> list[float]:
        (d_x,) = torch.autograd.grad(pools(x, dim)[1].sum(), x)
        values: list[float] = d_x.flatten().tolist()
        return values

    compiled = torch.compile(gates.mean_and_maximum, backend="aot_eager", fullgraph=True)
    assert gradient(gates.mean_and_maximum) == [1, 0, 0, 0]
    assert gradient(compiled) == [pytest.approx(1 / 3), 0, pytest.approx(1 / 3), pytest.approx(1 / 3)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_a_trace_holds_the_formula(name: str) -> None:
    ours, _, shapes = PAIRS[name]
    inputs = leaves(shapes)
    traced = torch.jit.trace(ours, tuple(inputs), check_trace=False)
    assert "PythonOp" not in str(traced.graph)
    assert torch.equal(traced(*inputs), ours(*inputs))


def test_the_gradient_has_the_layout_of_the_map() -> None:
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = pools(gates.scale(x, torch.rand(2, 6, 1, 1)), 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


class Sizes(TorchDispatchMode):
    """Notes the size of every result of one operation."""

    def __init__(self, operation: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operation = operation
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is self.operation:
            self.sizes.append(result.numel())
        return result


def test_products_of_the_whole_batch_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_gates, "_PRODUCTS", 100)
    x, gate = torch.randn(8, 10, 5, 5), torch.rand(8, 10, 1, 1, requires_grad=True)
    y = gates.scale(x, gate)
    with Sizes(torch.ops.aten.mul.Tensor) as products:
        y.sum().backward()
    assert products.sizes == [250] * 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_mean_and_its_gradient_have_the_bits_of_the_formula(dtype: torch.dtype) -> None:
    x = torch.randn(8, 10, 7, dtype=dtype, requires_grad=True)
    average, expected = gates.mean(x), x.mean(-1)
    gradients = (torch.autograd.grad(mean.sum(), x)[0] for mean in (average, expected))
    assert torch.equal(average, expected)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_of_a_mean_is_divided_before_it_is_expanded(dtype: torch.dtype) -> None:
    average = gates.mean(torch.randn(8, 10, 7, dtype=dtype, requires_grad=True))
    with Sizes(torch.ops.aten.div.Tensor) as quotients:
        average.sum().backward()
    assert quotients.sizes == [80]
