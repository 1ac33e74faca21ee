"""How to take queries a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_UNROLLED = 64


def chunks(query: Tensor, row: Tensor, numbers: int) -> list[slice]:
    """Return slices of the queries (B, ..., N, D) that need at most `numbers` at a time, but one at least.

    `row` has as many numbers, for all images, as one query needs. A compiled graph is of any batch, so
    there an image counts alone; and it unrolls the loop, so there are at most 64 slices.

    >>> import torch
    >>> chunks(torch.zeros(2, 5, 3), torch.zeros(2, 10), 40)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    length = query.shape[-2]
    if torch.compiler.is_compiling():
        step = max(numbers // row[0].numel(), -(-length // _UNROLLED))
    else:
        step = max(1, numbers // row.numel())
    return [slice(start, start + step) for start in range(0, length, step)]
