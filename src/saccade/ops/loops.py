"""Loops over memory, compiled by Numba when they first run, and divided among the threads of PyTorch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_VALUES = 1 << 19  # values of a map for which another thread pays


def run_loop(
    loop: Callable[..., None], units: int, *arguments: Tensor | int | torch.dtype, reassociate: bool = False
) -> None:
    """Call `loop(start, stop, *arguments)` for ranges that cover `units`, one for each thread of PyTorch.

    The loop gets the memory of the tensors as NumPy arrays, and writes its results there. A unit must not
    write where another one reads or writes, and its result must not depend on the range that it is in. So
    results are the same for any number of threads.

    Args:
        loop: Function in the part of Python that Numba compiles. It is compiled at its first call, once for
            the machine: Numba keeps the code on disk.
        units: Number of independent pieces of work.
        arguments: Contiguous tensors on the CPU, numbers, and types, which the loop gets as those of NumPy.
        reassociate: Whether sums may be computed in any order, as vector instructions do.

    Example:
        >>> def double(start, stop, x):
        ...     for i in range(start, stop):
        ...         x[i] = 2 * x[i]
        >>> x = torch.ones(3)
        >>> _ = run_loop(double, 3, x) if is_available() else x.mul_(2)
        >>> x
        tensor([2., 2., 2.])
    """
    compiled = _compiled(loop, reassociate)
    arrays = [_of_numpy(argument) for argument in arguments]
    values = max(a.numel() for a in arguments if isinstance(a, Tensor))
    threads = max(1, min(torch.get_num_threads(), units, values // _VALUES))
    bounds = [units * i // threads for i in range(threads + 1)]
    others = [
        _pool(os.getpid()).submit(compiled, start, stop, *arrays) for start, stop in pairwise(bounds[1:])
    ]
    compiled(0, bounds[1], *arrays)
    for other in others:
        other.result()


def _of_numpy(argument: Tensor | int | torch.dtype) -> Any:
    if isinstance(argument, torch.dtype):
        return torch.empty(0, dtype=argument).numpy().dtype.type
    return argument.detach().numpy() if isinstance(argument, Tensor) else argument


@cache
def is_available() -> bool:
    """Return whether Numba is installed, without an import of it: that takes longer than most models run."""
    return importlib.util.find_spec("numba") is not None


@cache
def _compiled(loop: Callable[..., None], reassociate: bool) -> Callable[..., None]:
    import numba

    flags: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc"} if reassociate else False}
    try:
        compiled: Callable[..., None] = numba.njit(loop, cache=True, **flags)
    except RuntimeError:  # no folder to keep the code in
        compiled = numba.njit(loop, **flags)
    return compiled


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process. A forked process inherits none, and so has a pool of its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"saccade-{process}")
