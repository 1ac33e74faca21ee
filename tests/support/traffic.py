"""The memory that code compiled by Inductor reads and writes, counted and not measured: the same anywhere."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering


class _NoCode:
    def call(self, *_: Any) -> None: ...


def traffic(module: nn.Module, x: Tensor) -> list[float]:
    """Return what a forward and a backward pass read and write, as multiples of x.

    Inductor schedules both, but generates no code: the graphs run as they are.
    """
    counts: list[float] = []

    def count(graph: GraphLowering) -> Any:
        graph.init_wrapper_code()
        graph._update_scheduler()  # the kernels, without their code
        size = sum(kernel.get_read_write_buffers_sizes() for kernel in graph.scheduler.nodes)
        counts.append(size / x.untyped_storage().nbytes())
        return _NoCode()

    def lower(graph: Any, inputs: Any, **options: Any) -> Any:
        with mock.patch.object(GraphLowering, "compile_to_module", count):
            compile_fx_inner(graph, inputs, **options)
        return make_boxed_func(graph.forward)

    def backend(graph: Any, inputs: Any) -> Any:
        return compile_fx(graph, inputs, inner_compile=lower)

    torch.compiler.reset()
    with config.patch(force_disable_caches=True):
        y = torch.compile(module, backend=backend, fullgraph=True)(x)
        y.backward(torch.ones_like(y))
    return counts
