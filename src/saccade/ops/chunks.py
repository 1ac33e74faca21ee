"""Chunks of queries that fit a memory limit."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.ops.eager import is_eager

_MAX_UNROLLED = 64
_FEW = 1 << 20  # weights that are kept: to compute them again takes longer than to read them


def is_small(weights: int, x: Tensor) -> bool:
    """Return whether the formula of a map is faster than a form that saves memory: on the CPU, in float32.

    Args:
        weights: Number of weights, which the formula keeps.
        x: A tensor of the map.
    """
    return is_precise(x) and x.device.type == "cpu" and weights <= _FEW


def is_precise(x: Tensor) -> bool:
    """Return whether products have the type of x, which is not a half, and sizes may decide what runs."""
    return is_eager() and x.dtype.itemsize > 2 and not torch.is_autocast_enabled("cpu")


def chunks(query: Tensor, row: Tensor, limit: int) -> list[slice]:
    """Split queries into slices, each of which needs at most `limit` values, but at least one query.

    The batch size of a compiled graph is unknown, so under compilation the limit applies to one image.
    The compiler unrolls the loop, so it gets at most 64 slices.

    Args:
        query: Queries, (B, ..., N, D).
        row: A tensor with as many elements as one query needs for all images.
        limit: Number of values held at a time.

    Returns:
        Slices that cover the N queries.

    Example:
        >>> import torch
        >>> chunks(torch.zeros(2, 5, 3), torch.zeros(2, 10), 40)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    length = query.shape[-2]
    if torch.compiler.is_compiling():
        step = max(limit // row[0].numel(), -(-length // _MAX_UNROLLED))
    else:
        step = max(1, limit // row.numel())
    return [slice(start, start + step) for start in range(0, length, step)]
