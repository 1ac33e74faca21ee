"""The choice between the forms of an operation, and a report of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from saccade._torch import is_transformed
from saccade.annotations import check_arguments
from saccade.errors import bad_option, check_choice
from saccade.ops import kernels, loops
from saccade.ops.eager import is_eager

#: Plain operations of PyTorch, native loops on the CPU, or Triton kernels on a GPU.
Form = Literal["plain", "native", "triton"]

#: Products of an operation from which on another form is faster than the plain one on the CPU, as measured by
#: benchmarks/mechanisms.py. It was not measured on a GPU.
_SMALLEST = {
    "additive_scores": 1 << 16,
    "convolution": 1 << 16,
    "gate_by_means": 1 << 20,
    "gate_by_pools": 1 << 16,
    "mean_and_maximum": 1 << 16,
    "scale": 1 << 20,
    "scale_rows_and_columns": 1 << 20,
}
_DEVICES = {"native": "cpu", "triton": "cuda"}
_TYPES: dict[str, tuple[torch.dtype, ...]] = {
    "native": (torch.float32,),  # the loops can run in float64 as well, which saves nothing that matters
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}

_report: ContextVar[list[Choice] | None] = ContextVar("report", default=None)
_wanted: ContextVar[Form | Literal["auto"]] = ContextVar("wanted", default="auto")


@dataclass(frozen=True)
class Choice:
    """What ran for one call of an operation, and why.

    Attributes:
        operation: Name of the operation.
        shape: Shape of the map.
        form: "plain", "native" or "triton".
        reason: Why the plain form ran, if it did.
    """

    operation: str
    shape: tuple[int, ...]
    form: Form
    reason: str

    def __str__(self) -> str:
        form = f"plain, since {self.reason}" if self.reason else self.form
        return f"{self.operation} {self.shape}: {form}"


def explain(module: nn.Module, x: Tensor) -> list[Choice]:
    """Call a module, and return what ran for each operation that has several forms.

    The call is a forward pass like any other: in training, batch norm updates its statistics.

    Args:
        module: A mechanism or a model. What `torch.compile` made of it has no choice, and is not listed.
        x: Its input.

    Example:
        >>> import saccade as sc
        >>> for choice in explain(sc.create("cbam", 32), torch.randn(1, 32, 4, 4)):
        ...     print(choice)
        gate_by_pools (1, 32, 4, 4): plain, since the map is small
        convolution (1, 2, 4, 4): plain, since the map is small
    """
    check_arguments(explain, locals())
    choices: list[Choice] = []
    token = _report.set(choices)
    try:
        module(x)
    finally:
        _report.reset(token)
    return choices


@contextmanager
def implementation(impl: Form | Literal["auto"]) -> Iterator[None]:
    """Choose the form of all operations in a block, in this thread or task.

    "auto" chooses by device, type and size. Any other form runs at any size, or an error says why it cannot.
    Operations that do not have the form run in the plain one. The form of a backward pass is that of its
    forward pass. Compiled, exported and traced calls hold plain operations, whatever is chosen.

    Args:
        impl: "auto", "plain", "native" or "triton".

    Raises:
        BadOption: In the block: the form cannot run for a tensor.

    Example:
        >>> import saccade as sc
        >>> with implementation("plain"):
        ...     print(*explain(sc.create("se", 64), torch.randn(8, 64, 32, 32)))
        gate_by_means (8, 64, 32, 32): plain, since it was chosen
    """
    check_choice("implementation", "impl", impl, ("auto", *get_args(Form)))
    token = _wanted.set(impl)
    try:
        yield
    finally:
        _wanted.reset(token)


def choose(
    operation: str,
    x: Tensor,
    *others: Tensor,
    work: int | None = None,
    strided: bool = True,
    has_kernel: bool = True,
    missing: str = "",
) -> Form:
    """Return the form in which an operation runs, and report it.

    Args:
        operation: Name of the operation, for the report.
        x: The map.
        others: Further tensors, of the type and on the device of x.
        work: Number of products. None: one for each value of x.
        strided: Whether the Triton form takes maps that are not contiguous.
        has_kernel: Whether the operation has a Triton form.
        missing: Why the operation has the plain form alone for these options, if the caller knows.

    Raises:
        BadOption: The form that `implementation` names cannot run.
    """
    if not is_eager():
        return "plain"
    wanted = _wanted.get()
    form: Form = wanted if wanted != "auto" else "triton" if x.device.type == "cuda" else "native"
    if form == "triton" and not has_kernel:
        missing = "it has no Triton kernel"
    if form == "plain":
        reason = "it was chosen"
    elif missing:
        reason = missing
    elif wanted == "auto" and (x.numel() if work is None else work) < _SMALLEST[operation]:
        reason = "the map is small"
    else:
        reason = _reason(form, x, others, strided)
        if reason and wanted != "auto":
            raise bad_option("implementation", f"cannot run {operation}: {reason}", impl=wanted)
    chosen: Form = "plain" if reason else form
    choices = _report.get()
    if choices is not None:
        choices.append(Choice(operation, tuple(x.shape), chosen, reason))
    return chosen


def _reason(form: Literal["native", "triton"], x: Tensor, others: tuple[Tensor, ...], strided: bool) -> str:
    """Return why a form cannot run; an empty string if it can."""
    device = _DEVICES[form]
    if any(type(t) not in (Tensor, nn.Parameter) or t.device != x.device for t in (x, *others)) or (
        x.device.type != device
    ):
        return f"a tensor is not a plain one on the {'CPU' if form == 'native' else 'GPU'}"
    if not x.numel():
        return "the map is empty"
    types = _TYPES[form]
    if x.dtype not in types or any(tensor.dtype != x.dtype for tensor in others):
        return f"the type is not {' or '.join(str(t).removeprefix('torch.') for t in types)}"
    if not (strided and form == "triton") and not x.is_contiguous():
        return "the map is not contiguous"
    if is_transformed():
        return "a transform of torch.func, forward differentiation or a dispatch mode is active"
    if form == "native":
        return "" if loops.is_available() else "saccade[fast] is not installed"
    return "" if kernels.is_available() else "triton is not installed"
