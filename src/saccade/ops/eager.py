"""Whether operations run as they are called: then hand-written passes replace formulas."""

from __future__ import annotations

import torch


def is_eager() -> bool:
    """Return whether no compiler, export or trace records the operations. A compiler fuses plain formulas.

    Example:
        >>> is_eager()
        True
    """
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is None


def is_compiling() -> bool:
    """Return whether `torch.compile` records the operations, which it fuses: not an export, not a trace.

    Example:
        >>> is_compiling()
        False
    """
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()
