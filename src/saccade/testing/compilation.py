"""Checks of compilation and export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from saccade._torch import aot_eager
from saccade.recording import record
from saccade.testing.case import Case, sweep
from saccade.testing.recording import tensors

_EXACT = 1e-10
Backend = Callable[[torch.fx.GraphModule, list[Any]], Any]


@contextmanager
def _compiled(module: nn.Module, backend: Backend) -> Iterator[Any]:
    """Compile a module into one graph without code generation.

    Compiled code is cleared before and after, so that every check has its own compilations.
    """
    torch.compiler.reset()
    try:
        yield torch.compile(module, fullgraph=True, backend=backend)
    finally:
        torch.compiler.reset()


@sweep("compiles into one graph")
def check_compile(case: Case) -> None:
    """With fullgraph=True, results, gradients and recorded maps equal those of eager mode."""
    module = case.build(dtype=torch.float64)
    inputs = case.inputs(dtype=torch.float64)
    eager = copy.deepcopy(module)  # passes in training mode can change buffers
    expected, gradients = case.forward_backward(eager, inputs)
    with record(eager) as eager_maps:
        expected_recorded = case.forward(eager, inputs)
    with _compiled(module, aot_eager) as compiled:
        output, compiled_gradients = case.forward_backward(compiled, inputs)
        with record(compiled) as maps:
            recorded = case.forward(compiled, inputs)
    case.expect_equal("the compiled result", output, expected, _EXACT)
    case.expect_equal("the compiled result while recorded", recorded, expected_recorded, _EXACT)
    case.expect_gradients("compiled", compiled_gradients, gradients, _EXACT)
    case.expect([*maps] == [*eager_maps], f"compiled, it published {maps}, in eager mode {eager_maps}")
    for path, attention in eager_maps.items():
        for name, value in tensors(attention).items():
            case.expect_equal(f"the compiled map {path}.{name}", tensors(maps[path])[name], value, _EXACT)


@sweep("compiles once")
def check_recompiles(case: Case) -> None:
    """Repeated calls reuse compiled code: one compilation per fixed size, dynamic size, and recording."""
    if not case.is_first:
        return  # compilation is slow, and options seldom cause recompilation
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    module = case.build().eval()
    with _compiled(module, count) as compiled:
        for _ in range(3):
            case.forward(compiled, case.inputs())
        case.expect(len(graphs) == 1, f"three equal calls compiled {len(graphs)} times, expected once")
        for _ in range(2):
            with record(compiled):
                case.forward(compiled, case.inputs())
            case.forward(compiled, case.inputs())
        case.expect(len(graphs) == 2, f"recording compiled {len(graphs) - 1} times, expected once")
        for batch in (3, 4, 5):
            case.forward(compiled, case.inputs(B=batch))
        added = len(graphs) - 2
        case.expect(added <= 2, f"three batch sizes compiled {added} times, expected at most twice")


@sweep("can be exported with a dynamic batch")
def check_export(case: Case) -> None:
    """The exported program gives the eager result for the batch size of the export and for another one."""
    module = case.build(dtype=torch.float64).eval()
    inputs = case.inputs(dtype=torch.float64)
    batch = Dim("batch", min=1)
    program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)).module()
    for size in (inputs[0].shape[0], 5):
        example = case.inputs(dtype=torch.float64, B=size)
        exported, eager = case.forward(program, example), case.forward(module, example)
        case.expect_equal(f"the exported result at batch {size}", exported, eager, _EXACT)
