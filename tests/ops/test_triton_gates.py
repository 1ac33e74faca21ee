"""Mechanisms whose gates run in Triton kernels have the values and gradients of the plain form.

The kernels run on a GPU if there is one, `make test-gpu`, and otherwise in Triton's interpreter on the CPU.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, library, nn

import saccade as sc
from saccade.ops import explain, implementation
from support.errors import raises
from support.parity import assert_close, build, normal
from support.triton_device import DEVICE, INTERPRETED, allow_kernels, laid_out, needs_device

pytest.importorskip("triton", reason="triton is not installed; PyTorch for CUDA brings it")

from saccade.ops import native_gates

quick = partial(settings, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])

MECHANISMS = ("cbam", "channel_gate", "spatial_gate", "se", "eca", "ese", "coordinate", "ela")
OPTIONS: dict[str, dict[str, Any]] = {
    "cbam": {"reduction": 1},
    "channel_gate": {"reduction": 1},
    "se": {"reduction": 1},
    "ela": {"groups": 1, "norm_groups": 1},
}


@pytest.fixture(autouse=True)
def _memory_filled_with_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    allow_kernels(monkeypatch)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [leaf for leaf in (x, *module.parameters()) if leaf.requires_grad]
    y = module(x)
    return [y, *torch.autograd.grad(y, leaves, grad.expand_as(y))]


@needs_device
@pytest.mark.parametrize("name", MECHANISMS)
@quick(max_examples=3 if INTERPRETED else 20)
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
    x = torch.randn(8, 64, 64, 64, device="cuda", dtype=dtype)
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


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests above run in this process")
def test_the_kernels_in_the_interpreter() -> None:
    kernels = str(Path(__file__).with_name("test_triton_kernels.py"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", __file__, kernels],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert re.search(r"\d+ passed", run.stdout)
    assert "in another process" not in run.stdout  # none of the tests that need a device was skipped
