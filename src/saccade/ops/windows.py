"""Windows of an image: padding, the positions of each window, and the pairs that a shift separates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Extents = Sequence[int]  # of rows and columns
_HIDDEN = -100.0  # the logit by which Swin hides the positions of other regions in a shifted window


def cut_windows(
    size: Extents, window: Extents, shift: Extents, device: torch.device, *, pad_first: bool
) -> tuple[Tensor, Tensor]:
    """Return the place of each position of each window, and the mask of a shift.

    The image is padded at its end to a multiple of the window, and shifted cyclically by `-shift`. A window
    at the end then holds regions that are not neighbors, and the mask is -100 for their pairs.

    Args:
        size: Rows and columns of the image.
        window: Rows and columns of a window.
        shift: Rows and columns by which the image is shifted.
        device: Device of the result.
        pad_first: Whether the image is padded before the shift or after it.

    Returns:
        Places in row-major order, (windows, n), -1 for padding, and the mask, (windows, n, n), or (1, n, n)
        without a shift.

    Example:
        >>> import torch
        >>> cut_windows((2, 3), (2, 2), (0, 0), torch.device("cpu"), pad_first=True)[0].tolist()
        [[0, 1, 3, 4], [2, -1, 5, -1]]
    """
    padding = (0, missing(size[1], window[1]), 0, missing(size[0], window[0]))
    places = torch.arange(math.prod(size), device=device).reshape(*size)
    back = [-step for step in shift]
    if pad_first:
        places = F.pad(places, padding, value=-1).roll(back, (0, 1))
    else:
        places = F.pad(places.roll(back, (0, 1)), padding, value=-1)
    sides = zip(places.shape, shift, strict=True)
    rows, columns = (torch.arange(n, device=device) >= n - step for n, step in sides)  # rolled to the end
    regions = _cut(2 * rows[:, None] + columns, window)
    mask = _HIDDEN * (regions[:, :, None] != regions[:, None, :])
    return _cut(places, window), mask if any(shift) else mask[:1]


def missing(length: int, step: int) -> int:
    """Return what a length lacks to a multiple of `step`.

    Divisions are of non-negative numbers alone, because ONNX truncates where Python rounds down.

    Example:
        >>> missing(9, 4), missing(8, 4)
        (3, 0)
    """
    return step - 1 - (length + step - 1) % step


def needs_padding(height: int, width: int, step: int) -> bool:
    """Return whether a map is padded to multiples of `step`. An exported program pads every map.

    Example:
        >>> needs_padding(8, 9, 4), needs_padding(8, 12, 4)
        (True, False)
    """
    return torch.compiler.is_exporting() or bool(height % step or width % step)


def _cut(grid: Tensor, window: Extents) -> Tensor:
    """Cut a grid (H, W) into windows, (windows, n)."""
    rows, columns = window
    blocks: Tensor = grid.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)
