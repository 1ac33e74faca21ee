"""Arithmetic that keeps the precision of its inputs under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of x. The meta device has no autocast.

    Example:
        >>> import torch
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), no_autocast(x):
        ...     print((x @ x).dtype)
        torch.float32
    """
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)
