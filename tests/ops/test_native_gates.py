"""The native loops of the gates have the values and gradients of the plain form, and the same bits always."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import saccade as sc
from saccade.layers.mixed.cbam import CBAM
from saccade.ops import choice, gate_gradients, implementation, loops
from saccade.ops.gates import gate_by_pools
from support.parity import assert_close, build, normal

pytest.importorskip("numba")

MECHANISMS = ("cbam", "channel_gate", "spatial_gate", "se", "eca", "ese", "coordinate", "ela")
ANY_RANK = ("channel_gate", "se", "eca", "ese")


def small(name: str, channels: int) -> nn.Module:
    """Return a mechanism with few weights: its loops do not read them."""
    reduction = {"reduction": -(-channels // 8)}
    options: dict[str, dict[str, Any]] = {
        "cbam": reduction,
        "channel_gate": reduction,
        "se": reduction,
        "ela": {"groups": channels, "norm_groups": 1},
    }
    return build(name, channels, **options.get(name, {}))


@pytest.fixture(autouse=True)
def _native_at_any_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the loops for the smallest maps and in float64, in memory that is filled with NaN."""
    monkeypatch.setattr(choice, "_SMALLEST", dict.fromkeys(choice._SMALLEST, 0))
    monkeypatch.setitem(choice._TYPES, "native", (torch.float32, torch.float64))
    monkeypatch.setattr(loops, "_VALUES", 1)  # as many threads as there are
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [leaf for leaf in (x, *module.parameters()) if leaf.requires_grad]
    y = module(x)
    return [y, *torch.autograd.grad(y, leaves, grad.expand_as(y))]


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The map in other layouts, as leaves of a graph."""
    spread = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2].copy_(x)
    offset = torch.zeros(x.numel() + 1, dtype=x.dtype)[1:].view_as(x).copy_(x)
    first = x.transpose(0, 1).contiguous().transpose(0, 1)
    return {"contiguous": x, "spread": spread, "offset": offset, "channels first": first}


SHAPES = st.one_of(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 8, 17, 64]), st.integers(1, 19), st.integers(1, 19)),
    st.tuples(st.integers(1, 2), st.sampled_from([511, 2048]), st.integers(1, 3), st.integers(1, 3)),
)


@pytest.mark.parametrize("name", MECHANISMS)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shape=SHAPES,
    layout=st.sampled_from(["contiguous", "contiguous", "spread", "offset", "channels first", "expanded"]),
    frozen=st.sampled_from(["nothing", "x", "parameters"]),
    scalar=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_plain_form(
    name: str, shape: tuple[int, int, int, int], layout: str, frozen: str, scalar: bool
) -> None:
    batch, channels, height, width = shape
    module = small(name, channels)
    x = normal(1, channels, height, width).expand(shape) if layout == "expanded" else normal(*shape)
    x = layouts(x).get(layout, x).detach()
    if batch * height * width == 1 or channels == 1:
        module.eval()  # batch norm has no statistics
    x.requires_grad_(frozen != "x")
    for parameter in module.parameters():
        parameter.requires_grad_(frozen != "parameters")
    grad = torch.ones((), dtype=x.dtype) if scalar else normal(*shape, seed=1)
    sent, twin = grad.clone(), copy.deepcopy(module)
    got = gradients(module, x, grad)
    with implementation("plain"):
        expected = gradients(twin, x, sent)
    largest = max(value.abs().max().item() for value in expected)
    for i, (value, reference) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"result {i}", value, reference, floor=1e-3 * largest)
    assert torch.equal(grad, sent)
    for (key, buffer), other in zip(module.named_buffers(), twin.buffers(), strict=True):
        assert_close(key, buffer.double(), other.double())


@pytest.mark.parametrize("name", ANY_RANK)
@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 8, 3, 4, 5)])
def test_maps_of_other_ranks(name: str, shape: tuple[int, ...]) -> None:
    module = small(name, 8)
    x, grad = normal(*shape).requires_grad_(), normal(*shape, seed=1)
    got = gradients(module, x, grad)
    with implementation("plain"):
        expected = gradients(module, x, grad)
    for i, (value, reference) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"result {i}", value, reference)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_cbam_of_any_rank(dims: int) -> None:
    shape = (3, 8, 5, 4, 6)[: 2 + dims]
    module, x, grad = build("cbam", 8, reduction=2, dims=dims), normal(*shape), normal(*shape, seed=1)
    got = gradients(copy.deepcopy(module), x.requires_grad_(), grad)
    with implementation("plain"):
        expected = gradients(module, x, grad)
    for i, (value, reference) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"result {i}", value, reference)


FINITE = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -1e-45]
INFINITE = [float("inf"), float("-inf")]
NAN = [float("nan"), -float("nan")]
VALUES = st.sampled_from([FINITE, FINITE[:2], FINITE + INFINITE, FINITE + INFINITE + NAN]).flatmap(
    lambda choices: st.lists(st.sampled_from(choices), min_size=1, max_size=40)
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(values=VALUES, axis=st.sampled_from([1, 2]), repeats=st.integers(1, 20))
def test_equal_values_and_values_that_are_not_finite(values: list[float], axis: int, repeats: int) -> None:
    from saccade.ops import native_gates

    x = torch.tensor(values).repeat(repeats)
    if axis == 2:
        mean, maximum, index = native_gates.place_statistics(x.view(1, 1, -1))
    else:
        mean, maximum, index = native_gates.channel_statistics(x.view(1, -1, 1), torch.ones(1, len(x)))
    expected = x.max(0)
    assert index.item() == expected.indices.item()
    torch.testing.assert_close(maximum.flatten()[0], expected.values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(mean.flatten()[0], x.mean(), equal_nan=True)


@pytest.mark.parametrize("name", ["cbam", "se", "coordinate"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_spreads_as_in_the_plain_form(name: str, value: float) -> None:
    module, x = build(name, 8, reduction=2).eval(), normal(2, 8, 5, 6)
    x[0, 3, 2, 2] = value
    got = module(x)
    with implementation("plain"):
        expected = module(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_same_input_gives_the_same_bits(name: str) -> None:
    module, x, grad = sc.create(name, 16), torch.randn(3, 16, 9, 65), torch.randn(3, 16, 9, 65)
    first, second = (gradients(copy.deepcopy(module), x.requires_grad_(), grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("with_gate", [True, False])
def test_backward_passes_of_parts_of_the_graph(with_gate: bool) -> None:
    """The parts of a gradient belong to the backward pass that computes them, and to no other."""
    x, grad = normal(2, 3, 5).requires_grad_(), normal(2, 3, 5, seed=1)
    kernel = normal(3, 3, seed=2).requires_grad_()

    def passes(impl: Literal["plain", "native"]) -> list[Tensor]:
        weights: list[Tensor] = []

        def channel(average: Tensor, maximum: Tensor) -> Tensor:
            weights.append((average + maximum) @ kernel)
            return weights[0]

        def spatial(average: Tensor, maximum: Tensor) -> Tensor:
            return (average * maximum).unsqueeze(1)

        with implementation(impl):
            y = gate_by_pools(x, channel, spatial if with_gate else None)
        of_weights = torch.autograd.grad(y, kernel, grad, retain_graph=True)  # leaves parts, takes none
        of_statistics = torch.autograd.grad(weights[0].sum(), x, retain_graph=True)
        return [*of_weights, *of_statistics, *torch.autograd.grad(y, [x, kernel], grad)]

    seen = [passes("plain"), passes("native")]
    for number, (expected, got) in enumerate(zip(*seen, strict=True)):
        assert_close(f"gradient {number}", got, expected)


def test_a_graph_of_which_a_part_was_differentiated_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[weakref.ref[gate_gradients.Parts]] = []

    class Noted(gate_gradients.Parts):
        def __init__(self) -> None:
            super().__init__()
            graphs.append(weakref.ref(self))

    monkeypatch.setattr(gate_gradients, "Parts", Noted)
    x, kernel = normal(2, 3, 5).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    y = gate_by_pools(2 * x, lambda a, m: (a + m) @ kernel, lambda a, m: (a * m).unsqueeze(1))
    torch.autograd.grad(y.sum(), kernel)  # not that of x, which takes the parts
    assert graphs[0]() is not None
    del y
    gc.collect()
    assert graphs[0]() is None


def every_loop() -> list[Tensor]:
    """The results of all loops for the same input."""
    from saccade.ops.gate_gradients import ChannelStatistics, Entry, Gate, Parts, PlaceStatistics
    from saccade.ops.native_convolution import convolution

    x, parts = normal(3, 5, 71 * 73).float().requires_grad_(), Parts()
    kernel = normal(1, 2, 7, 7).float().requires_grad_()
    entry, again = Entry.apply(x, parts)
    average, maximum, _ = PlaceStatistics.apply(entry, parts)
    weights = torch.sigmoid(average - maximum)
    average, maximum, _ = ChannelStatistics.apply(entry, weights, parts)
    places = convolution(torch.stack([average, maximum], 1).view(3, 2, 71, 73), kernel).flatten(1)
    y = Gate.apply(entry, again, weights, places, parts)
    return [y, *torch.autograd.grad(y, [x, kernel], normal(*y.shape, seed=1).float())]


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            results.append(every_loop())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def kept(module: nn.Module, x: Tensor) -> float:
    """The memory that the backward pass keeps, relative to x."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x)
    assert y.requires_grad
    return sum(storages.values()) / x.untyped_storage().nbytes()


@pytest.mark.parametrize("name", ["cbam", "spatial_gate", "se", "coordinate"])
def test_the_backward_pass_keeps_the_map_and_little_else(name: str) -> None:
    x = torch.randn(2, 64, 48, 48, requires_grad=True)
    assert kept(sc.create(name, 64), x) < 1.2


def test_hooks_between_the_gates_are_called() -> None:
    module, x = CBAM(8, reduction=2).double().eval(), normal(2, 8, 5, 6)
    assert module.spatial is not None
    seen: list[Tensor] = []
    expected = module(x)
    handle = module.channel.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert_close("the output", module(x), expected)
    assert len(seen) == 1
    handle.remove()
    module(x)
    assert len(seen) == 1
    module.channel.forward = lambda x: x  # type: ignore[method-assign]
    assert_close("the output without the channel gate", module(x), module.spatial(x))


def test_a_recorded_pass_has_the_same_bits() -> None:
    module, x = sc.create("cbam", 16).eval(), torch.randn(2, 16, 9, 9)
    expected = module(x)
    with sc.record(module) as maps:
        assert torch.equal(module(x), expected)
    assert {*maps} == {"channel", "spatial"}


@pytest.mark.parametrize("name", ["cbam", "se", "coordinate"])
def test_second_derivatives(name: str) -> None:
    module, x = build(name, 8, reduction=2).eval(), normal(2, 8, 3, 4).requires_grad_()

    def penalty() -> Tensor:
        (d_x,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(d_x.square().sum(), x)
        return second

    got = penalty()
    with implementation("plain"):
        assert_close("the second derivative", got, penalty())


def test_a_graph_that_is_used_twice() -> None:
    module, x = build("cbam", 8, reduction=2), normal(2, 8, 5, 6).requires_grad_()
    y = module(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    module, x = build("cbam", 8, reduction=2).eval(), normal(2, 8, 5, 6)
    expected = module(x)
    with mode():
        assert torch.equal(module(x), expected)


def test_autocast_sets_the_types_of_the_plain_form() -> None:
    module, x = sc.create("cbam", 16).eval(), torch.randn(2, 16, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(x)
        with implementation("plain"):
            expected = module(x)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["cbam", "se", "coordinate"])
def test_layers_in_place_and_checkpoints(name: str) -> None:
    module, x = build(name, 8, reduction=2).eval(), normal(2, 8, 5, 6).requires_grad_()

    def gradient(checkpointed: bool) -> Tensor:
        y = checkpoint(module, x, use_reentrant=False) if checkpointed else module(x)
        (d_x,) = torch.autograd.grad(nn.functional.relu_(y).sum(), x)
        return d_x

    got, recomputed = gradient(False), gradient(True)
    assert torch.equal(got, recomputed)
    with implementation("plain"):
        assert_close("the gradient", got, gradient(False))
