"""The Triton kernels of the gates have the values and gradients of the formulas, for any size and layout.

`test_triton_gates.py` says where they run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.parity import normal
from support.triton_device import DEVICE, INTERPRETED, ROUNDING, allow_kernels, laid_out, needs_device

pytest.importorskip("triton", reason="triton is not installed; PyTorch for CUDA brings it")

from saccade.ops import kernels, native_gates, triton_gates

quick = partial(settings, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
LOW = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _memory_filled_with_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    allow_kernels(monkeypatch)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random values; in low precision such that products of two are exact."""
    x = normal(*shape, seed=seed)
    return (
        torch.where(x > 0, 2.0, 0.5) if dtype in LOW and seed else (2 * x).round() / 2 if dtype in LOW else x
    ).to(DEVICE, dtype)


LAYOUTS = ("contiguous", "channels last", "batch last", "spread", "offset", "expanded")
CASES = {
    "shape": st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 37)),
    "dtype": st.sampled_from([*ROUNDING]),
    "layout": st.sampled_from(LAYOUTS),
    "tile": st.sampled_from([(4, 2), (16, 8), (2048, 128)]),
    "programs": st.sampled_from([1, 7, 512]),
}


def case(
    shape: tuple[int, int, int], dtype: torch.dtype, layout: str, tile: tuple[int, int], programs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A map with weights of its channels and positions; the kernels get the size of tiles."""
    triton_gates._TILE, triton_gates._LINE, triton_gates._PROGRAMS = *tile, programs
    batch, channels, positions = shape
    x = values(1 if layout == "expanded" else batch, channels, positions, dtype=dtype).expand(shape)
    scale = values(batch, channels, dtype=dtype, seed=1)
    place = values(batch, positions, dtype=dtype, seed=2)
    return laid_out(x, layout), scale, place


def assert_rounded(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    error = (got.double() - expected).abs().max().item()
    assert error <= ROUNDING[dtype] * max(1.0, expected.abs().max().item()), error


@pytest.fixture
def _tiles() -> Iterator[None]:
    before = triton_gates._TILE, triton_gates._LINE, triton_gates._PROGRAMS
    yield
    triton_gates._TILE, triton_gates._LINE, triton_gates._PROGRAMS = before


@needs_device
@pytest.mark.usefixtures("_tiles")
@quick(max_examples=25)
@given(**CASES)
def test_statistics(**options: Any) -> None:
    x, scale, _ = case(**options)
    product = x * scale[..., None]
    for got, of, dim in (
        (native_gates.place_statistics(x), x, 2),
        (native_gates.channel_statistics(x, scale), product, 1),
    ):
        expected = of.max(dim)
        assert_rounded(got[0], of.double().mean(dim), x.dtype)
        assert torch.equal(got[1], expected.values)
        assert torch.equal(got[2].long(), expected.indices)


@needs_device
@pytest.mark.usefixtures("_tiles")
@quick(max_examples=25)
@given(layout_of_grad=st.sampled_from(LAYOUTS[:-1]), **CASES)
def test_gates(layout_of_grad: str, **options: Any) -> None:
    x, scale, place = case(**options)
    d_y = laid_out(values(*x.shape, dtype=x.dtype, seed=3), layout_of_grad)
    exact = [tensor.double().requires_grad_() for tensor in (x, scale, place)]
    y = exact[0] * exact[1][..., None] * exact[2][:, None]
    got = native_gates.gate(x, scale, place)
    assert_rounded(got, y, x.dtype)
    assert got.stride() == torch.empty_like(x).stride()
    results = native_gates.gate_backward(d_y, x, scale, place)
    for result, expected in zip(results, torch.autograd.grad(y, exact, d_y.double()), strict=True):
        assert_rounded(result, expected, x.dtype)
    y = exact[0] * exact[1][..., None]
    results = native_gates.scale_backward(d_y, x, scale)
    for result, expected in zip(results, torch.autograd.grad(y, exact[:2], d_y.double()), strict=True):
        assert_rounded(result, expected, x.dtype)


@needs_device
@pytest.mark.usefixtures("_tiles")
@quick(max_examples=25)
@given(**CASES)
def test_gradients_of_weights_and_of_the_map(**options: Any) -> None:
    x, scale, place = case(**options)
    d_y = laid_out(values(*x.shape, dtype=x.dtype, seed=4), options["layout"])
    exact = [tensor.double().requires_grad_() for tensor in (x, scale, place)]
    scaled = exact[0] * exact[1][..., None]
    y, of_places, of_channels = scaled * exact[2][:, None], exact[0].max(2), scaled.max(1)
    given = [values(*scale.shape, dtype=x.dtype, seed=seed) for seed in (5, 6)]
    given += [values(*place.shape, dtype=x.dtype, seed=seed) for seed in (7, 8)]
    outputs = exact[0].mean(2), of_places[0], scaled.mean(1), of_channels[0], y
    grads = [grad.double() for grad in (*given, d_y)]
    (d_x,) = torch.autograd.grad(outputs, exact[:1], grads, retain_graph=True)
    (d_statistics,) = torch.autograd.grad(outputs[2:4], exact[1:2], grads[2:4], retain_graph=True)
    d_scale, d_place = torch.autograd.grad(y, exact[1:], grads[4])

    d_row_mean, d_mean = given[0] / x.shape[2], given[2] / x.shape[1]
    statistics = (d_row_mean, given[1], of_places[1], d_mean, given[3], of_channels[1].int())
    assert_rounded(native_gates.map_gradient(d_y, scale, place, *statistics), d_x, x.dtype)
    got = native_gates.channel_statistics_backward(d_mean, given[3], statistics[-1], x)
    assert_rounded(got, d_statistics, x.dtype)
    for got, expected in zip(
        native_gates.weights_backward(d_y, x, scale, place), (d_scale, d_place), strict=True
    ):
        assert_rounded(got, expected, x.dtype)

    of_gate, empty = native_gates.weights_backward(d_y, x, scale, None)
    assert_rounded(of_gate, (d_y.double() * x.double()).sum(2), x.dtype)
    assert empty.numel() == 0
    got = native_gates.map_gradient(d_y, scale, None, d_row_mean, *[None] * 5)
    assert_rounded(got, d_y.double() * scale[..., None].double() + d_row_mean[..., None].double(), x.dtype)


FINITE = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -1e-45]
INFINITE = [float("inf"), float("-inf")]
NAN = [float("nan"), -float("nan")]
VALUES = st.sampled_from(
    [FINITE, FINITE[:2], INFINITE[1:], FINITE + INFINITE, FINITE + INFINITE + NAN]
).flatmap(lambda choices: st.lists(st.sampled_from(choices), min_size=1, max_size=40))


@needs_device
@pytest.mark.usefixtures("_tiles")
@quick(max_examples=25)
@example(numbers=[1.0, 2.0], axis=1, repeats=20, programs=1)  # equal values in several tiles of a program
@example(numbers=[1.0, 2.0], axis=2, repeats=20, programs=1)
@example(numbers=[1.0, 2.0], axis=2, repeats=20, programs=512)  # and in several programs
@example(numbers=[1.0, NAN[0]], axis=1, repeats=20, programs=1)
@example(numbers=[1.0, NAN[0]], axis=2, repeats=20, programs=512)
@given(
    numbers=VALUES,
    axis=st.sampled_from([1, 2]),
    repeats=st.integers(1, 9),
    programs=st.sampled_from([1, 512]),
)
def test_equal_values_and_values_that_are_not_finite(
    numbers: list[float], axis: int, repeats: int, programs: int
) -> None:
    triton_gates._TILE, triton_gates._LINE, triton_gates._PROGRAMS = 16, 8, programs
    x = torch.tensor(numbers, device=DEVICE).repeat(repeats)
    if axis == 2:
        mean, maximum, index = native_gates.place_statistics(x.view(1, 1, -1))
    else:
        ones = torch.ones(1, len(x), device=DEVICE)
        mean, maximum, index = native_gates.channel_statistics(x.view(1, -1, 1), ones)
    expected = x.max(0)
    assert index.item() == expected.indices.item()
    torch.testing.assert_close(maximum.flatten()[0], expected.values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(mean.flatten()[0], x.mean(), equal_nan=True)


def signature(value: object) -> str:
    """The type of an argument of a kernel, as Triton's compiler writes it."""
    if isinstance(value, Tensor):
        names = {"float": "fp", "bfloat": "bf", "int": "i"}
        kind, bits = re.findall(r"([a-z]+)(\d+)", str(value.dtype))[0]
        return f"*{names[kind]}{bits}"
    return "i64" if isinstance(value, int) else "constexpr"


@pytest.mark.skipif(INTERPRETED, reason="the compiler does not run in the interpreter")
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float32, "contiguous"), (torch.bfloat16, "channels last"), (torch.float16, "contiguous")],
)
def test_the_kernels_compile_for_a_gpu(
    dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes types that the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    compiled: list[str] = []

    def compile_only(kernel: Callable[..., None], _: int, *arguments: Any, **constants: Any) -> None:
        function = kernels._compiled(kernel)
        given = dict(zip(function.arg_names, (*arguments, *constants.values()), strict=True))
        ordered = dict(zip(function.arg_names, arguments, strict=False)) | constants
        assert given.keys() == ordered.keys()
        types = {name: "constexpr" if name in constants else signature(v) for name, v in ordered.items()}
        source = ASTSource(fn=function, signature=types, constexprs=constants)
        compiled.append(triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"])

    monkeypatch.setattr(triton_gates, "run_kernel", compile_only)
    x = laid_out(torch.zeros(2, 64, 65, dtype=dtype), layout)
    scale, place = torch.zeros(2, 64, dtype=dtype), torch.zeros(2, 65, dtype=dtype)
    triton_gates.place_statistics(x)
    triton_gates.channel_statistics(x, scale)
    triton_gates.channel_statistics_backward(place, place, place.int(), x)
    triton_gates.map_gradient(x, scale, place, scale, scale, scale.long(), place, place, place.int())
    triton_gates.weights_backward(x, x, scale, place)
    triton_gates.gate(x, scale, place)
    triton_gates.gate_backward(x, x, scale, place)
    triton_gates.scale_backward(x, x, scale)
    assert len(compiled) == 8
    assert not any("ftz" in code for code in compiled)  # the smallest numbers stay
    assert not any(re.search(r"\b(atom|red)\.", code) for code in compiled)
