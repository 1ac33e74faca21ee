"""What `torch.compile` makes of the gates: the values of the plain form, and few passes over the map."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.ops.compiled_gates import channel_statistics
from support.parity import assert_close, build, normal
from support.traffic import traffic

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from mechanisms import implementations


def gradients(module: nn.Module, call: Any, x: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    y = call(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], normal(*y.shape, seed=1))]


def assert_compiled(module: nn.Module, x: Tensor) -> None:
    """Assert that a module and its compiled form have the same output, gradients and buffers."""
    x, twin = x.requires_grad_(), copy.deepcopy(module)
    torch.compiler.reset()
    got = gradients(module, torch.compile(module, backend="aot_eager", fullgraph=True), x)
    expected = gradients(twin, twin, x)
    largest = max(value.abs().max().item() for value in expected)
    for i, (value, reference) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"result {i}", value, reference, floor=1e-3 * largest)
    for (key, buffer), other in zip(module.named_buffers(), twin.buffers(), strict=True):
        assert_close(key, buffer.double(), other.double())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cbam", {"reduction": 2}),
        ("cbam", {"reduction": 2, "pools": ("max", "avg"), "spatial_pools": ("avgmax",)}),
        ("cbam", {"reduction": 2, "pools": ("max",)}),
        ("eca", {"kernel_size": 1}),
        ("eca", {"kernel_size": 5}),
        ("eca", {"kernel_size": 5, "padding": "circular"}),
        ("eca", {"kernel_size": 17}),
        ("eca", {"kernel_size": 3, "hidden": 4}),
        ("ese", {}),
        ("coordinate", {}),
        ("coordinate", {"bias": False, "variant": "simple"}),
        ("bam", {"reduction": 2}),
        ("split_attention", {}),
    ],
)
def test_a_compiled_gate_has_the_values_and_gradients_of_its_eager_form(
    name: str, options: dict[str, Any]
) -> None:
    assert_compiled(build(name, 8, **options), normal(3, 8, 5, 6))


@pytest.mark.parametrize("name", ["coordinate", "ese", "eca"])
def test_a_compiled_gate_of_a_map_in_channels_last(name: str) -> None:
    x = normal(3, 8, 5, 6).to(memory_format=torch.channels_last)
    assert_compiled(build(name, 8), x)


@pytest.mark.parametrize("dims", [1, 3])
def test_cbam_of_other_ranks(dims: int) -> None:
    assert_compiled(build("cbam", 8, reduction=2, dims=dims), normal(*(3, 8, 5, 4, 6)[: 2 + dims]))


def test_statistics_of_a_scaled_map() -> None:
    x, weights = normal(2, 3, 4, 5).requires_grad_(), normal(2, 3, 1, 1, seed=1).requires_grad_()
    scaled = x * weights
    got, expected = channel_statistics(x, weights), (scaled.mean(1), scaled.amax(1))
    grads = normal(2, 4, 5, seed=2), normal(2, 4, 5, seed=3)
    for value, reference in zip(
        (*got, *torch.autograd.grad(got, (x, weights), grads)),
        (*expected, *torch.autograd.grad(expected, (x, weights), grads)),
        strict=True,
    ):
        assert_close("a result", value, reference)
    assert torch.autograd.gradcheck(channel_statistics, (x, weights))


def test_equal_values_share_the_gradient_of_the_maximum() -> None:
    x = torch.tensor([[[2.0], [1.0], [2.0]]], requires_grad=True)
    channel_statistics(x, torch.ones(1, 3, 1))[1].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.5, 0, 0.5]


def operators(module: nn.Module, x: Tensor) -> str:
    """The graph of the compiled forward pass."""
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(str(graph.code))
        return graph.forward

    torch.compiler.reset()
    torch.compile(module, backend=backend, fullgraph=True)(x)
    return "".join(graphs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["eca", "ese", "coordinate"])
def test_no_convolution_is_compiled(name: str, layout: torch.memory_format) -> None:
    module, x = sc.create(name, 8), torch.randn(2, 8, 5, 6).to(memory_format=layout)
    assert not re.search(r"conv\dd\(", operators(module, x))
    with torch.autocast("cpu", torch.bfloat16):
        assert re.search(r"conv\dd\(", operators(module, x))  # autocast sets the type of convolutions


def test_an_export_holds_the_convolutions() -> None:
    module, x = sc.create("eca", 8).eval(), torch.randn(2, 8, 5, 6)
    for strict in (False, True):
        assert "conv1d" in str(torch.export.export(module, (x,), strict=strict).graph)


@pytest.mark.parametrize("name", ["se", "eca", "cbam", "bam", "coordinate", "split_attention"])
def test_compiled_code_moves_no_more_memory_than_other_implementations(name: str) -> None:
    x = torch.randn(2, 64, 24, 24, requires_grad=True)
    moved = {key: sum(traffic(form, x)) for key, form in implementations(64)[name].items()}
    ours = moved.pop("ours")
    assert moved
    assert ours <= 1.002 * min(moved.values()), (ours, moved)
    if name in ("eca", "cbam", "coordinate"):
        assert ours < min(moved.values()) - 0.8, (ours, moved)  # no copy of the map in another layout


def test_compiled_coordinate_in_channels_last_moves_no_more_memory_than_other_implementations() -> None:
    x = torch.randn(2, 64, 24, 24).to(memory_format=torch.channels_last).requires_grad_()
    moved = {key: sum(traffic(form, x)) for key, form in implementations(64)["coordinate"].items()}
    ours = moved.pop("ours")
    assert ours <= 1.002 * min(moved.values()), (ours, moved)
