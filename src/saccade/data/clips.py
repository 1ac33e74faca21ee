"""Clips: short films, (3, T, H, W), and how one is laid out on a page."""

from __future__ import annotations

from math import isqrt

from torch import Tensor


def contact_sheet(frames: Tensor) -> Tensor:
    """Lay the frames of clips side by side, in rows as in a book. (..., T, h, w) -> (..., rows h, columns w).

    There are as many rows as fill a sheet that is no higher than wide, in frames: 2 of 4 for T = 8.

    >>> import torch
    >>> contact_sheet(torch.arange(8).reshape(8, 1, 1))
    tensor([[0, 1, 2, 3],
            [4, 5, 6, 7]])
    """
    count, height, width = frames.shape[-3:]
    rows = max(rows for rows in range(1, isqrt(count) + 1) if count % rows == 0)
    columns = count // rows
    return (
        frames.unflatten(-3, (rows, columns))
        .transpose(-3, -2)
        .reshape(*frames.shape[:-3], rows * height, columns * width)
    )
