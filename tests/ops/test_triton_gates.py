"""The Triton kernels of the gates have the values and gradients of the plain form, and the same bits always.

They run on a GPU if there is one, `make test-gpu`, and otherwise in Triton's interpreter on the CPU, in a
process of its own: it has to be chosen before Triton is imported.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, library, nn

import saccade as sc
from saccade.ops import choice, explain, implementation
from support.errors import raises
from support.parity import assert_close, build, normal

pytest.importorskip("triton", reason="triton is not installed; PyTorch for CUDA brings it")

from saccade.ops import kernels, native_gates, triton_gates

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU; test_the_kernels_in_the_interpreter"
)
quick = partial(settings, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])

MECHANISMS = ("cbam", "channel_gate", "spatial_gate", "se", "eca", "ese", "coordinate", "ela")
OPTIONS: dict[str, dict[str, Any]] = {
    "cbam": {"reduction": 1},
    "channel_gate": {"reduction": 1},
    "se": {"reduction": 1},
    "ela": {"groups": 1, "norm_groups": 1},
}
#: Error of one rounding, relative to the largest value. The interpreter truncates to bfloat16.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LOW = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _memory_filled_with_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Allow the kernels in float64 and, in the interpreter, on the CPU."""
    monkeypatch.setitem(choice._TYPES, "triton", tuple(ROUNDING))
    monkeypatch.setitem(choice._DEVICES, "triton", DEVICE)
    if INTERPRETED:
        native_gates.register_triton("cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random values; in low precision such that products of two are exact."""
    x = normal(*shape, seed=seed)
    return (
        torch.where(x > 0, 2.0, 0.5) if dtype in LOW and seed else (2 * x).round() / 2 if dtype in LOW else x
    ).to(DEVICE, dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values (B, C, P) in another layout."""
    match layout:
        case "channels last":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "batch last":
            return x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        case "spread":
            return torch.stack([x, x + 1], -1)[..., 0]
        case "offset":
            return torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    return x


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
def test_gradients_of_statistics_are_added_in_place(**options: Any) -> None:
    x, scale, place = case(**options)
    d_x = laid_out(values(*x.shape, dtype=x.dtype, seed=4), options["layout"])
    exact = [tensor.double().requires_grad_() for tensor in (x, scale)]
    given = values(*scale.shape, dtype=x.dtype, seed=5), values(*scale.shape, dtype=x.dtype, seed=6)
    mean, (most, index) = exact[0].mean(2), exact[0].max(2)
    (expected,) = torch.autograd.grad((mean, most), exact[:1], [grad.double() for grad in given])
    total = d_x.clone()
    native_gates.place_statistics_backward(given[0] / x.shape[2], given[1], index, total)
    assert_rounded(total, d_x.double() + expected, x.dtype)

    given = place, values(*place.shape, dtype=x.dtype, seed=6)
    product = exact[0] * exact[1][..., None]
    mean, (most, index) = product.mean(1), product.max(1)
    expected, d_scale = torch.autograd.grad((mean, most), exact, [grad.double() for grad in given])
    total = d_x.clone()
    got = native_gates.channel_statistics_backward(
        given[0] / x.shape[1], given[1], index.int(), x, scale, total
    )
    assert_rounded(total, d_x.double() + expected, x.dtype)
    assert_rounded(got, d_scale, x.dtype)


FINITE = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -1e-45]
INFINITE = [float("inf"), float("-inf")]
NAN = [float("nan"), -float("nan")]
VALUES = st.sampled_from(
    [FINITE, FINITE[:2], INFINITE[1:], FINITE + INFINITE, FINITE + INFINITE + NAN]
).flatmap(lambda choices: st.lists(st.sampled_from(choices), min_size=1, max_size=40))


@needs_device
@pytest.mark.usefixtures("_tiles")
@quick(max_examples=60)
@given(
    numbers=VALUES,
    axis=st.sampled_from([1, 2]),
    repeats=st.integers(1, 3),
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


def gradients(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [leaf for leaf in (x, *module.parameters()) if leaf.requires_grad]
    y = module(x)
    return [y, *torch.autograd.grad(y, leaves, grad.expand_as(y))]


@needs_device
@pytest.mark.parametrize("name", MECHANISMS)
@quick(max_examples=5)
@given(
    shape=st.tuples(*(st.integers(1, largest) for largest in (3, 9, 6, 6))),
    layout=st.sampled_from(["contiguous", "channels last", "transposed", "expanded"]),
    frozen=st.sampled_from(["nothing", "x", "parameters"]),
    scalar=st.booleans(),
)
def test_mechanisms(
    name: str, shape: tuple[int, int, int, int], layout: str, frozen: str, scalar: bool
) -> None:
    batch, channels, height, width = shape
    module = build(name, channels, **OPTIONS.get(name, {})).to(DEVICE)
    x = normal(1 if layout == "expanded" else batch, channels, height, width).expand(shape).to(DEVICE)
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.mT.contiguous().mT
    if name in ("coordinate", "ela") and not x.is_contiguous():
        x = x.contiguous()  # its products of rows and columns have no other kernel
    if batch * height * width == 1 or channels == 1:
        module.eval()  # batch norm has no statistics
    x = x.detach().requires_grad_(frozen != "x")
    for parameter in module.parameters():
        parameter.requires_grad_(frozen != "parameters")
    grad = (torch.ones(()).double() if scalar else normal(*shape, seed=1)).to(DEVICE)
    sent, twin = grad.clone(), copy.deepcopy(module)
    with implementation("triton"):
        got = gradients(module, x, grad)
    with implementation("plain"):
        expected = gradients(twin, x, sent)
    largest = max(value.abs().max().item() for value in expected)
    for i, (value, reference) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"result {i}", value, reference, floor=1e-3 * largest)
    assert torch.equal(grad, sent)
    for (key, buffer), other in zip(module.named_buffers(), twin.buffers(), strict=True):
        assert_close(key, buffer.double(), other.double())


@needs_device
@pytest.mark.parametrize("name", ["cbam", "se"])
def test_the_output_has_the_layout_of_the_map(name: str) -> None:
    module = sc.create(name, 8, reduction=2).to(DEVICE)
    x = torch.randn(2, 8, 5, 4, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    with implementation("triton"):
        y, d_x, *_ = gradients(module, x, torch.ones_like(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert d_x.is_contiguous(memory_format=torch.channels_last)


@needs_device
@pytest.mark.parametrize("name", MECHANISMS)
def test_the_same_input_gives_the_same_bits(name: str) -> None:
    module = sc.create(name, 16).to(DEVICE)
    x, grad = torch.randn(3, 16, 9, 7, device=DEVICE), torch.randn(3, 16, 9, 7, device=DEVICE)
    with implementation("triton"):
        results = [gradients(copy.deepcopy(module), x.requires_grad_(), grad) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


OPERATORS: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "place_statistics": (native_gates.place_statistics, [(1, 3, 4)]),
    "channel_statistics": (native_gates.channel_statistics, [(1, 3, 4), (1, 3)]),
    "gate": (native_gates.gate, [(1, 3, 4), (1, 3), (1, 4)]),
    "scale": (native_gates.scale, [(1, 3, 4), (1, 3)]),
}


def leaves(name: str, layout: str = "contiguous") -> list[Tensor]:
    first, *others = (normal(*shape, seed=i).to(DEVICE) for i, shape in enumerate(OPERATORS[name][1]))
    return [tensor.requires_grad_() for tensor in (laid_out(first, layout), *others)]


def differentiable(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = OPERATORS[name][0](*inputs)
        return tuple(
            y for y in ([outputs] if isinstance(outputs, Tensor) else outputs) if y.is_floating_point()
        )

    return call


@needs_device
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_complete(name: str) -> None:
    assert torch.autograd.gradcheck(differentiable(name), leaves(name))
    assert torch.autograd.gradgradcheck(differentiable(name), leaves(name))
    for layout in ("contiguous", "channels last"):
        library.opcheck(OPERATORS[name][0], (*leaves(name, layout),))
    compiled = torch.compile(differentiable(name), backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(*leaves(name)), differentiable(name)(*leaves(name)), strict=True):
        assert torch.equal(got, expected)


@needs_device
def test_the_report_names_the_kernels() -> None:
    module, x = sc.create("cbam", 8, reduction=2).to(DEVICE), torch.randn(2, 8, 5, 4, device=DEVICE)
    with implementation("triton"):
        assert [*map(str, explain(module, x))] == [
            "gate_by_pools (2, 8, 5, 4): triton",
            "convolution (2, 2, 5, 4): plain, since it has no Triton kernel",
        ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_maps_on_a_gpu_run_in_kernels(dtype: torch.dtype) -> None:
    module = sc.create("se", 64).to("cuda", dtype)
    x = torch.randn(8, 64, 32, 32, device="cuda", dtype=dtype)
    assert [entry.form for entry in explain(module, x)] == ["triton"]
    assert [entry.form for entry in explain(module, x.to(memory_format=torch.channels_last))] == ["triton"]


def test_a_form_that_cannot_run_is_an_error() -> None:
    x = torch.randn(2, 32, 40, 40, device="meta")
    module = sc.create("se", 32).to("meta")
    with (
        implementation("triton"),
        raises(sc.BadOption, owner="implementation", option="impl", value="triton"),
    ):
        module(x)


def signature(value: object) -> str:
    """The type of an argument of a kernel, as Triton's compiler writes it."""
    if isinstance(value, Tensor):
        names = {"float": "fp", "bfloat": "bf", "int": "i"}
        kind, bits = re.findall(r"([a-z]+)(\d+)", str(value.dtype))[0]
        return f"*{names[kind]}{bits}"
    return "i64" if isinstance(value, int) else "constexpr"


@pytest.mark.skipif(INTERPRETED, reason="the compiler does not run in the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
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
    triton_gates.place_statistics_backward(scale, scale, scale.long(), x)
    triton_gates.channel_statistics_backward(place, place, place.int(), x, scale, x)
    triton_gates.gate(x, scale, place)
    triton_gates.gate_backward(x, x, scale, place)
    triton_gates.scale_backward(x, x, scale)
    assert len(compiled) == 7
    assert not any(re.search(r"\b(atom|red)\.", code) for code in compiled)


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests above run in this process")
def test_the_kernels_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    (passed,) = re.findall(r"(\d+) passed", run.stdout)
    assert int(passed) >= 30
