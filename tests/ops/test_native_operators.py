"""The operators around the native loops are complete operators of PyTorch."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional as F

from saccade.ops import loops
from saccade.ops.loops import run_loop
from support.parity import assert_close, normal

pytest.importorskip("numba")

from saccade.ops import native_convolution, native_gates

OPERATORS: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "place_statistics": (native_gates.place_statistics, [(2, 3, 5)]),
    "channel_statistics": (native_gates.channel_statistics, [(2, 3, 5), (2, 3)]),
    "gate": (native_gates.gate, [(2, 3, 5), (2, 3), (2, 5)]),
    "scale": (native_gates.scale, [(2, 3, 5), (2, 3)]),
    "convolution 1": (native_convolution.convolution, [(2, 2, 5), (1, 2, 3)]),
    "convolution 2": (native_convolution.convolution, [(2, 2, 4, 5), (1, 2, 3, 5)]),
    "convolution 3": (native_convolution.convolution, [(1, 3, 3, 4, 2), (1, 3, 3, 3, 3)]),
}


def leaves(name: str) -> list[Tensor]:
    return [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(OPERATORS[name][1])]


def differentiable(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = OPERATORS[name][0](*inputs)
        return tuple(
            y for y in ([outputs] if isinstance(outputs, Tensor) else outputs) if y.is_floating_point()
        )

    return call


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    assert torch.autograd.gradcheck(differentiable(name), leaves(name))
    assert torch.autograd.gradgradcheck(differentiable(name), leaves(name))


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_finds_nothing_wrong_with_the_operator(name: str) -> None:
    library.opcheck(OPERATORS[name][0], (*leaves(name),))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_compiler_takes_the_operator_as_a_whole(name: str) -> None:
    inputs = leaves(name)
    compiled = torch.compile(differentiable(name), backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(*inputs), differentiable(name)(*inputs), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_convolution_is_that_of_torch(rank: int) -> None:
    x, weight = normal(2, 3, *(9, 4, 6)[:rank]), normal(1, 3, *(5, 3, 1)[:rank])
    plain = (F.conv1d, F.conv2d, F.conv3d)[rank - 1](x, weight, padding=[2, 1, 0][:rank])
    assert_close("the map", native_convolution.convolution(x, weight), plain)


@pytest.fixture
def _as_many_threads_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_VALUES", 1)


def double(start: int, stop: int, x: Tensor) -> None:
    for i in range(start, stop):
        x[i] *= 2


@pytest.mark.usefixtures("_as_many_threads_as_there_are")
@pytest.mark.parametrize("units", [0, 1, 2, 5])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("has_openmp", [True, False])
def test_every_unit_is_done_once(
    units: int, threads: int, has_openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_openmp:
        monkeypatch.setattr(loops, "_openmp", lambda _: None)
    x, before = torch.ones(units), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run_loop(double, units, x)
    finally:
        torch.set_num_threads(before)
    assert x.tolist() == [2] * units


@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="PyTorch without OpenMP")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another OpenMP library")
def test_loops_run_in_the_threads_of_pytorch() -> None:
    assert loops._openmp(os.getpid()) is not None


@pytest.mark.usefixtures("_as_many_threads_as_there_are")
@pytest.mark.parametrize("has_openmp", [True, False])
def test_an_error_in_a_thread_is_raised(has_openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_openmp:
        monkeypatch.setattr(loops, "_openmp", lambda _: None)
    done: list[int] = []

    def call(part: int) -> None:
        if part == 2:
            raise ValueError("part 2")
        done.append(part)

    with pytest.raises(ValueError, match="part 2"):
        loops._in_parallel(call, 3)
    loops._in_parallel(done.append, 3)
    assert sorted(done) == [0, 0, 1, 1, 2]


def doubled(threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.ones(4)
    run_loop(double, 4, x)
    assert x.tolist() == [2] * 4


def test_several_threads_of_a_program_may_run_loops() -> None:
    workers = [threading.Thread(target=doubled, args=(1,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.usefixtures("_as_many_threads_as_there_are")
def test_a_forked_process_runs_loops() -> None:
    before = torch.get_num_threads()
    doubled(2)
    torch.set_num_threads(before)
    child = multiprocessing.get_context("fork").Process(target=doubled, args=(2,), daemon=True)
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0
