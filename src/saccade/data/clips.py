"""Clips: short films, (3, T, H, W), and how one is laid out on a page."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


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
    in_rows: Tensor = frames.unflatten(-3, (rows, columns)).transpose(-3, -2)
    return in_rows.reshape(*frames.shape[:-3], rows * height, columns * width)


def heat_sheet(weights: Tensor, frames: tuple[int, ...]) -> Tensor:
    """Lay maps of clips over their sheets: (B, t, h, w), or (B, t) of time alone -> (B, rows H, columns W).

    They are resized to `frames`, (T, H, W), beforehand, so that no frame's heat flows into its neighbor's.

    >>> import torch
    >>> heat_sheet(torch.tensor([[0.0, 0.2, 0.3, 0.5]]), (4, 1, 2))
    tensor([[[0.0000, 0.0000, 0.2000, 0.2000],
             [0.3000, 0.3000, 0.5000, 0.5000]]])
    """
    volumes = weights if weights.ndim == 4 else weights[..., None, None]
    return contact_sheet(F.interpolate(volumes.unsqueeze(1).float(), frames, mode="trilinear").squeeze(1))
