"""Contact sheets: the frames of a clip (3, T, H, W) as one image."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


def contact_sheet(frames: Tensor) -> Tensor:
    """Arrange the frames of clips in a grid, in reading order.

    The grid has the largest number of rows that divides T and is at most the square root of T: 2 rows of 4
    frames for T = 8.

    Args:
        frames: Clips or maps of clips.

    Shape:
        - frames: (..., T, H, W)
        - output: (..., rows * H, columns * W) with rows * columns = T

    Example:
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
    """Arrange maps of clips as contact sheets of the frames.

    The maps are resized to `frames` first, so that no heat crosses into the next frame of the grid.

    Args:
        weights: Maps in space and time, or in time alone.
        frames: Size (T, H, W) of the clips.

    Shape:
        - weights: (B, t, h, w) or (B, t)
        - output: (B, rows * H, columns * W)

    Example:
        >>> import torch
        >>> heat_sheet(torch.tensor([[0.0, 0.2, 0.3, 0.5]]), (4, 1, 2))
        tensor([[[0.0000, 0.0000, 0.2000, 0.2000],
                 [0.3000, 0.3000, 0.5000, 0.5000]]])
    """
    volumes = weights if weights.ndim == 4 else weights[..., None, None]
    return contact_sheet(F.interpolate(volumes.unsqueeze(1).float(), frames, mode="trilinear").squeeze(1))
