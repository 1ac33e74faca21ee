"""Attention of narrow heads equals the fused attention of torch, in any size, layout and chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, library
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import saccade as sc
from saccade.attribution import legrad, relevance
from saccade.models import ViT
from saccade.ops import narrow_attention as narrow
from saccade.ops.narrow_attention import OPERATOR, attention
from support.parity import Largest, assert_close, normal

quick = partial(settings, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
torch_attention: Callable[..., Tensor] = F.scaled_dot_product_attention
ours: Callable[..., Tensor] = attention
Layout = Callable[[Tensor], Tensor]
LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda x: x,
    "heads last": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "tokens last": lambda x: x.mT.contiguous().mT,
    "expanded": lambda x: x[:1].expand_as(x),
}


class Seen(TorchFunctionMode):
    """Notes what attention runs."""

    def __init__(self) -> None:
        self.operators: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (OPERATOR, F.scaled_dot_product_attention):
            self.operators.append(func)
        return func(*args, **(kwargs or {}))


def leaves(
    batch: int, heads: int, queries: int, keys: int, width: int, layout: str = "contiguous"
) -> list[Tensor]:
    shapes = [(batch, heads, length, width) for length in (queries, keys, keys)]
    return [
        LAYOUTS[layout](normal(*shape, seed=i)).detach().requires_grad_() for i, shape in enumerate(shapes)
    ]


@pytest.fixture(autouse=True)
def _memory_filled_with_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "_WEIGHTS", 40)
    monkeypatch.setattr(narrow, "_ROWS", 3)


@pytest.mark.usefixtures("small_chunks")
@quick(max_examples=60)
@given(
    shape=st.tuples(*(st.integers(1, largest) for largest in (3, 3, 9, 12, 8))),
    layout=st.sampled_from([*LAYOUTS]),
    scale=st.sampled_from([None, 0.7]),
    frozen=st.sets(st.integers(0, 2), max_size=2),
)
def test_equals_torch(
    shape: tuple[int, int, int, int, int], layout: str, scale: float | None, frozen: set[int]
) -> None:
    inputs = leaves(*shape, layout)
    for i in frozen:
        inputs[i].requires_grad_(False)
    with Seen() as seen:
        got = attention(inputs[0], inputs[1], inputs[2], scale)
    expected = torch_attention(*inputs, scale=scale)
    assert seen.operators == [OPERATOR]
    assert_close("output", got, expected)
    learned = [x for x in inputs if x.requires_grad]
    grad = normal(*expected.shape, seed=3)
    references = torch.autograd.grad(expected, learned, grad)
    for value, reference in zip(torch.autograd.grad(got, learned, grad), references, strict=True):
        assert_close("a gradient", value, reference, floor=1.0)  # 0 for one key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_maps_equal_torch(dtype: torch.dtype) -> None:
    inputs = [x.detach().to(dtype) for x in leaves(2, 3, 1500, 1600, 8)]
    torch.testing.assert_close(ours(*inputs), torch_attention(*inputs))


@pytest.mark.usefixtures("small_chunks")
def test_the_operator_is_complete() -> None:
    inputs = leaves(2, 3, 4, 5, 3)
    library.opcheck(narrow.narrow_attention, (*inputs, 0.7))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_weights_of_a_chunk_alone_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    inputs = [x.detach().requires_grad_() for x in leaves(1, 8, 1100, 1100, 8)]
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = ours(*inputs)
    assert max(kept) == inputs[0].numel()
    with Largest() as largest:  # type: ignore[no-untyped-call]  # sees the parts of an operator
        narrow.narrow_attention_backward._init_fn(y.detach(), *(x.detach() for x in (*inputs, y)), 1.0)
    assert largest.elements <= 3 * narrow._WEIGHTS < 8 * 1100 * 1100


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_bits_do_not_depend_on_the_threads(threads: int) -> None:
    inputs = leaves(2, 3, 40, 50, 8)
    expected = ours(*inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(ours(*inputs), expected)
    finally:
        torch.set_num_threads(before)


def test_wide_heads_halves_and_exports_take_the_attention_of_torch() -> None:
    wide, half = leaves(1, 2, 4, 4, 9), [x.bfloat16() for x in leaves(1, 2, 4, 4, 8)]
    with Seen() as seen:
        ours(*wide)
        ours(*half)
    assert seen.operators == [F.scaled_dot_product_attention] * 2
    module, x = sc.create("multi_head", 16, heads=2).eval(), torch.randn(2, 5, 16)
    graph = torch.export.export(module, (x,)).graph
    assert "scaled_dot_product_attention" in str(graph)
    assert "narrow" not in str(graph)


def test_functional_transforms() -> None:
    inputs = [x.detach() for x in leaves(2, 3, 4, 5, 3)]
    stacked = [torch.stack([x, 2 * x]) for x in inputs]
    for got, x in zip(torch.func.vmap(ours)(*stacked), (inputs, [2 * x for x in inputs]), strict=True):
        assert_close("output", got, torch_attention(*x))


def test_a_compiled_module_runs_it() -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(str(graph.code))
        return graph.forward

    torch.compiler.reset()
    module, x = sc.create("multi_head", 16, heads=2), torch.randn(2, 16, 4, 4)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), module(x))
    assert "torch.ops.saccade.narrow_attention" in graphs[0]


def test_attribution_sees_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ViT(32, patch_size=8, classes=5, width=24, depth=2, heads=4, mlp_width=48).double()
    images = torch.rand(2, 3, 32, 32).double()
    with Seen() as seen:
        model(images)
    assert seen.operators == [OPERATOR] * 2
    got = [method(model, images, target=1).weights for method in (legrad, relevance)]
    monkeypatch.setattr(narrow, "_WIDEST", 0)
    for value, method in zip(got, (legrad, relevance), strict=True):
        assert_close("a map", value, method(model, images, target=1).weights)


@pytest.mark.parametrize("compiled", [False, True])
def test_recording_sees_it_and_changes_no_bit(compiled: bool) -> None:
    torch.compiler.reset()
    model = ViT(32, patch_size=8, classes=5, width=24, depth=2, heads=4, mlp_width=48).eval()
    if compiled:
        model.compile(backend="eager")
    images = torch.rand(2, 3, 32, 32)
    expected = model(images)
    with sc.record(model) as maps:
        assert torch.equal(model(images), expected)
    assert [*maps] == ["blocks.0.attn", "blocks.1.attn"]


def test_shapes_that_torch_broadcasts_or_refuses() -> None:
    query, key, value = (x.detach() for x in leaves(2, 3, 4, 5, 8))
    shared = attention(query, key[:1], value[:1])
    assert_close("output", shared, ours(query, *(x[:1].expand_as(x) for x in (key, value))))
    with pytest.raises(RuntimeError):
        attention(query, key[..., :7], value[..., :7])
