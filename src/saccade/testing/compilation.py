"""Checks of compilation and export."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from saccade._torch import COMPILED, aot_eager
from saccade.recording import record
from saccade.testing.case import Case, largest, sweep
from saccade.testing.recording import tensors

_EXACT = 1e-10


class _Compiled:
    """A module compiled into one graph without code generation, and the number of compilations."""

    def __init__(self, module: nn.Module) -> None:
        self.graphs = 0
        self.module: Any = torch.compile(module, fullgraph=True, backend=self._compile)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs += 1
        return aot_eager(graph, inputs)


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Clear compiled code before and after, so that every check counts its own compilations."""
    torch.compiler.reset()
    try:
        yield
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
    with _fresh_compiler():
        compiled = _Compiled(module)
        output, compiled_gradients = case.forward_backward(compiled.module, inputs)
        with record(compiled.module) as maps:
            recorded = case.forward(compiled.module, inputs)
    case.expect_equal("the compiled result", output, expected, _EXACT)
    case.expect_equal("the compiled result while recorded", recorded, expected_recorded, _EXACT)
    for name, gradient in gradients.items():
        key = name if name in compiled_gradients else f"{COMPILED}.{name}"
        got = compiled_gradients[key]
        if gradient is None or got is None:
            case.fail(f"{name} must receive a gradient, compiled or not")
        case.expect_equal(f"the compiled gradient of {name}", got, gradient, _EXACT, largest(gradients))
    case.expect([*maps] == [*eager_maps], f"compiled, it published {maps}, in eager mode {eager_maps}")
    for path, attention in eager_maps.items():
        for name, value in tensors(attention).items():
            case.expect_equal(f"the compiled map {path}.{name}", tensors(maps[path])[name], value, _EXACT)


@sweep("compiles once")
def check_recompiles(case: Case) -> None:
    """Repeated calls reuse compiled code: one compilation per fixed size, dynamic size, and recording."""
    if not case.is_first:
        return  # compilation is slow, and options seldom cause recompilation
    module = case.build().eval()
    with _fresh_compiler():
        compiled = _Compiled(module)
        for _ in range(3):
            case.forward(compiled.module, case.inputs())
        case.expect(
            compiled.graphs == 1, f"three equal calls compiled {compiled.graphs} times, expected once"
        )
        for _ in range(2):
            with record(compiled.module):
                case.forward(compiled.module, case.inputs())
            case.forward(compiled.module, case.inputs())
        case.expect(compiled.graphs == 2, f"recording compiled {compiled.graphs - 1} times, expected once")
        for batch in (3, 4, 5):
            case.forward(compiled.module, case.inputs(B=batch))
        graphs = compiled.graphs - 2
        case.expect(graphs <= 2, f"three batch sizes compiled {graphs} times, expected at most twice")


@sweep("can be exported with a dynamic batch")
def check_export(case: Case) -> None:
    """The exported program gives the eager result for the batch size of the export and for another one."""
    module = case.build(dtype=torch.float64).eval()
    inputs = case.inputs(dtype=torch.float64)
    batch = Dim("batch", min=1)
    program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)).module()
    for size in (inputs[0].shape[0], 5):
        example = case.inputs(dtype=torch.float64, B=size)
        case.expect_equal(
            f"the exported result at batch {size}",
            case.forward(program, example),
            case.forward(module, example),
            _EXACT,
        )
