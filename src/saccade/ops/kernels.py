"""Kernels for a GPU, compiled by Triton when they first run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def run_kernel(kernel: Callable[..., None], programs: int, *arguments: Any, **constants: Any) -> None:
    """Run `programs` programs of a kernel on the device of the first tensor.

    Args:
        kernel: Function in the part of Python that Triton compiles. It is compiled at its first call, once
            for each set of types and constants: Triton keeps the code on disk.
        programs: Number of programs. Each writes what no other one reads or writes, so that results do not
            depend on their order.
        arguments: Tensors on one device, of which the kernel gets pointers, and integers; a tensor first.
        constants: Values that Triton compiles into the code.
    """
    with torch.cuda.device_of(arguments[0]):
        _compiled(kernel)[(programs,)](*arguments, **constants)


@cache
def is_available() -> bool:
    """Return whether Triton is installed, without an import of it. PyTorch for CUDA brings it."""
    return importlib.util.find_spec("triton") is not None


@cache
def _compiled(kernel: Callable[..., None]) -> Any:
    import triton

    return triton.jit(kernel)
