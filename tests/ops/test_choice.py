"""Which calls run in native loops, and the report of the reasons."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import saccade as sc
from saccade.ops import choice, explain, implementation, loops
from support.errors import raises
from support.parity import assert_close

pytest.importorskip("numba")

SHAPE = (2, 32, 128, 130)


def reasons(module: nn.Module, x: Tensor) -> list[str]:
    return [entry.reason for entry in explain(module, x)]


@pytest.mark.parametrize(
    "name", ["cbam", "channel_gate", "spatial_gate", "se", "eca", "ese", "coordinate", "ela"]
)
def test_large_maps_run_in_loops(name: str) -> None:
    entries = explain(sc.create(name, 32), torch.randn(SHAPE, requires_grad=True))
    assert entries
    assert all(entry.form == "native" and not entry.reason for entry in entries), [*map(str, entries)]
    assert entries[0].shape == SHAPE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x[:, :, :1, :1], "the map is small"),
        (lambda x: x.double(), "the type is not float32"),
        (lambda x: x.bfloat16(), "the type is not float32"),
        (lambda x: x.to(memory_format=torch.channels_last), "the map is not contiguous"),
        (lambda x: x.mT, "the map is not contiguous"),
        (lambda x: x.to("meta"), "a tensor is not a plain one on the CPU"),
    ],
)
def test_other_maps_take_the_plain_form(change: Callable[[Tensor], Tensor], reason: str) -> None:
    x = change(torch.randn(SHAPE))
    module = sc.create("cbam", 32).to(x.device, x.dtype).eval()
    assert reasons(module, x)[0] == reason


def test_without_numba_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
    monkeypatch.setattr(loops, "is_available", loops.is_available.__wrapped__)
    assert set(reasons(sc.create("cbam", 32), torch.randn(SHAPE))) == {"saccade[fast] is not installed"}


def test_a_module_without_such_operations_has_no_report() -> None:
    assert explain(nn.Conv2d(32, 32, 1), torch.randn(SHAPE)) == []
    x = torch.randn(SHAPE)
    assert explain(torch.compile(sc.create("cbam", 32).eval(), backend="eager"), x) == []  # type: ignore[arg-type]


def test_transforms_take_the_plain_form() -> None:
    module, x = sc.create("cbam", 32).eval(), torch.randn(SHAPE)
    (expected,) = torch.autograd.grad(module(x.requires_grad_()).sum(), x)
    x = x.detach()
    seen: list[str] = []

    def call(x: Tensor) -> Tensor:
        entries = explain(module, x)
        seen.extend(entry.reason for entry in entries)
        return module(x).sum()  # type: ignore[no-any-return]

    torch.testing.assert_close(torch.func.grad(call)(x), expected, rtol=1e-4, atol=1e-5)
    torch.func.vmap(call)(x[:, None])
    with FlopCounterMode(display=False) as counter:
        call(x)
    assert counter.get_total_flops() > 0
    assert not any(reason == "" for reason in seen)


def holds_loops(graph: object) -> bool:
    return "saccade::" in str(graph) or "ops.saccade" in str(graph)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_an_export_and_a_trace_hold_the_plain_form() -> None:
    module, x = sc.create("cbam", 32).eval(), torch.randn(SHAPE)
    exported = torch.export.export(module, (x,))
    assert not holds_loops(exported.graph)
    traced: Any = torch.jit.trace(module, x, check_trace=False)
    assert not holds_loops(traced.inlined_graph)
    assert "PythonOp" not in str(traced.inlined_graph)
    for form in (exported.module(), traced):
        torch.testing.assert_close(form(x), module(x), rtol=1e-5, atol=1e-5)


def test_the_report_reads_as_a_sentence() -> None:
    entries = explain(sc.create("se", 32), torch.randn(2, 32, 4, 4))
    assert [str(entry) for entry in entries] == ["gate_by_means (2, 32, 4, 4): plain, since the map is small"]
    assert str(choice.Choice("scale", (1,), "native", "")) == "scale (1,): native"


def test_a_convolution_with_other_options_is_plain() -> None:
    from saccade.ops.convolution import MapConv2d

    x = torch.randn(8, 2, 50, 50)
    for options in ({"padding": 3, "stride": 2}, {"padding": 0}, {"padding": 3, "bias": True}):
        conv = MapConv2d(2, 1, 7, **({"bias": False} | options))  # type: ignore[arg-type]
        assert reasons(conv, x) == ["it has no loop for these options"]
        plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        assert_close("the map", conv(x), plain)


def test_what_is_no_module_is_refused() -> None:
    wrong: Any = 5
    with raises(sc.BadOption, owner="explain", option="module", value=5):
        explain(wrong, torch.zeros(1, 2, 3, 3))


def test_the_form_of_a_block_can_be_chosen() -> None:
    module, small = sc.create("se", 32), torch.randn(2, 32, 4, 4)
    large = torch.randn(SHAPE)

    def forms(x: Tensor) -> list[str]:
        return [entry.form for entry in explain(module, x)]

    with implementation("native"):
        assert forms(small) == ["native"]
        with implementation("auto"):
            assert forms(small) == ["plain"]
        assert forms(small) == ["native"]
    with implementation("plain"):
        assert reasons(module, large) == ["it was chosen"]
    assert forms(large) == ["native"]


@pytest.mark.parametrize("impl", ["native", "triton"])
def test_a_chosen_form_is_never_replaced_by_another(impl: Any) -> None:
    module, x = sc.create("se", 32).double(), torch.randn(2, 32, 4, 4, dtype=torch.float64)
    with implementation(impl), raises(sc.BadOption, owner="implementation", option="impl", value=impl):
        module(x)


def test_an_operation_without_the_chosen_form_is_plain() -> None:
    conv = torch.randn(2, 2, 9, 9), sc.create("spatial_gate", 8).conv
    assert isinstance(conv[1], nn.Module)
    with implementation("triton"):
        assert reasons(conv[1], conv[0]) == ["it has no Triton kernel"]


def test_an_unknown_form_is_refused() -> None:
    wrong: Any = "cuda"
    with raises(sc.BadOption, owner="implementation", option="impl", value="cuda"), implementation(wrong):
        pass
