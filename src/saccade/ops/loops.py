"""Loops over memory, compiled by Numba when they first run, and divided among the threads of PyTorch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

_VALUES = 1 << 19  # values of a map for which another thread pays
_PROCESS = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


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
    _in_parallel(lambda i: compiled(bounds[i], bounds[i + 1], *arrays), threads)


def _in_parallel(call: Callable[[int], object], threads: int) -> None:
    """Call a function that releases the GIL with 0 to `threads` - 1, each in a thread."""
    if threads == 1:
        call(0)
    elif openmp := _openmp(os.getpid()):
        failures: list[BaseException] = []

        def body(_: object) -> None:
            try:
                for i in range(openmp.omp_get_thread_num(), threads, openmp.omp_get_num_threads()):
                    call(i)
            except BaseException as error:  # would be printed and forgotten
                failures.append(error)

        openmp.GOMP_parallel(_BODY(body), None, threads, 0)
        if failures:
            raise failures[0]
    else:
        others = [_pool(os.getpid()).submit(call, i) for i in range(1, threads)]
        call(0)
        for other in others:
            other.result()


@cache
def _openmp(process: int) -> ctypes.CDLL | None:
    """Return the OpenMP library of PyTorch, or None if it is another one, or the process was forked.

    After an operation of PyTorch, its threads wait for the next one without sleeping, for milliseconds.
    Threads of our own would compete with them for the cores. A forked process has none of these threads.
    """
    if process != _PROCESS or "OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        openmp = ctypes.CDLL(None)  # what is loaded for all: PyTorch loads its OpenMP library so
        openmp.GOMP_parallel.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        openmp.GOMP_parallel.restype = None
        openmp.omp_get_thread_num.restype = openmp.omp_get_num_threads.restype = ctypes.c_int
    except (AttributeError, OSError, TypeError):  # no such function, or a system that cannot look
        return None
    return openmp


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

    # A check for a division by zero would keep the loop from vector instructions.
    fastmath = {"reassoc"} if reassociate else False
    flags: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        compiled: Callable[..., None] = numba.njit(loop, cache=True, **flags)
    except RuntimeError:  # no folder to keep the code in
        compiled = numba.njit(loop, **flags)
    return compiled


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process. A forked process inherits none, and so has a pool of its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"saccade-{process}")
