"""The choice between the native form of an operation and its plain form, and a report of what was chosen."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade._torch import is_transformed
from saccade.annotations import check_arguments
from saccade.ops.eager import is_eager
from saccade.ops.loops import is_available

_SMALLEST = 1 << 16  # products from which on the native form is faster
_TYPES = (torch.float32,)  # the loops can run in float64 as well, which saves nothing that matters

_report: ContextVar[list[Choice] | None] = ContextVar("report", default=None)


@dataclass(frozen=True)
class Choice:
    """What ran for one call of an operation, and why.

    Attributes:
        operation: Name of the operation.
        shape: Shape of the map.
        is_native: Whether the native form ran.
        reason: Why not, if not.
    """

    operation: str
    shape: tuple[int, ...]
    is_native: bool
    reason: str

    def __str__(self) -> str:
        form = "native" if self.is_native else f"plain, since {self.reason}"
        return f"{self.operation} {self.shape}: {form}"


def explain(module: nn.Module, x: Tensor) -> list[Choice]:
    """Call a module, and return what ran for each operation that has a native form.

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


def is_native(operation: str, x: Tensor, *others: Tensor, work: int | None = None, reason: str = "") -> bool:
    """Return whether the native form of an operation runs, and report it.

    Args:
        operation: Name of the operation, for the report.
        x: The map.
        others: Further tensors, of the type of x.
        work: Number of products. None: one for each value of x.
        reason: Why the native form cannot run, if the caller knows.
    """
    if not is_eager():
        return False
    reason = reason or _reason(x, *others, work=work)
    choices = _report.get()
    if choices is not None:
        choices.append(Choice(operation, tuple(x.shape), not reason, reason))
    return not reason


def _reason(x: Tensor, *others: Tensor, work: int | None) -> str:
    """Return why the native form does not run; an empty string if it does."""
    if any(type(t) not in (Tensor, nn.Parameter) or t.device.type != "cpu" for t in (x, *others)):
        return "a tensor is not a plain one on the CPU"
    if not x.numel() or (x.numel() if work is None else work) < _SMALLEST:
        return "the map is small"
    if x.dtype not in _TYPES or any(tensor.dtype != x.dtype for tensor in others):
        return "the type is not float32"
    if not x.is_contiguous():
        return "the map is not contiguous"
    if is_transformed():
        return "a transform of torch.func, forward differentiation or a dispatch mode is active"
    return "" if is_available() else "saccade[fast] is not installed"
