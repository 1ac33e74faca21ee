"""Maps of mechanisms that choose places by coordinates: sampling grids and fixations.

Coordinates are (x, y) in [-1, 1] from edge to edge: (-1, -1) is the upper left corner of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps.base import AttentionMap


@dataclass(frozen=True, eq=False)
class GridMap(AttentionMap):
    """The points at which an image is sampled: `grid` `(B, H', W', 2)`, of an image of `size` `(H, W)`.

    The heat map is the density of the samples: each point leaves a weight of 1 in its four nearest pixels,
    shared as bilinear sampling reads them; points outside of the image leave none.

    >>> import torch
    >>> corner = GridMap(torch.full((1, 4, 4, 2), -0.75), size=(4, 4))     # 16 samples of one pixel
    >>> corner.saliency()[0, 0, 0].item(), corner.saliency().sum().item()
    (16.0, 16.0)
    """

    grid: Tensor
    size: tuple[int, int]
    align_corners: bool = False
    kind = "grid"

    def saliency(self) -> Tensor:
        height, width = self.size
        points = self.grid.flatten(1, 2).float()
        x, y = (self._pixels(points[..., axis], extent) for axis, extent in ((0, width), (1, height)))
        density = points.new_zeros(len(points), height * width)
        for column in (x.floor(), x.floor() + 1):
            for row in (y.floor(), y.floor() + 1):
                share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # NaN is outside
                index = torch.where(inside, row * width + column, 0).long()
                density.scatter_add_(1, index, torch.where(inside, share, 0))
        return density.reshape(-1, *self.size)

    def _pixels(self, coordinate: Tensor, extent: int) -> Tensor:
        """[-1, 1] -> the index of a pixel, fractions included."""
        if self.align_corners:
            return (coordinate + 1) * (extent - 1) / 2
        return ((coordinate + 1) * extent - 1) / 2


@dataclass(frozen=True, eq=False)
class FixationMap(AttentionMap):
    """Where a mechanism looked, in order: `locations` `(B, steps, 2)`.

    `extents` are the height and width of what is seen at each location, as shares of the image, one pair
    for each scale. The heat map, drawn at `size`, counts these footprints: how often each pixel was seen.

    >>> import torch
    >>> twice = FixationMap(torch.zeros(1, 2, 2), extents=((0.5, 0.5),), size=(4, 4))
    >>> twice.saliency()[0, 1].tolist()
    [0.0, 2.0, 2.0, 0.0]
    """

    locations: Tensor
    extents: tuple[tuple[float, float], ...]
    size: tuple[int, int] = (32, 32)
    kind = "fixation"

    def saliency(self) -> Tensor:
        places = self.locations.float()
        seen = places.new_zeros(len(places), *self.size)
        for high, wide in self.extents:
            rows = _covered(places[..., 1], high, self.size[0])
            columns = _covered(places[..., 0], wide, self.size[1])
            seen = seen + torch.einsum("bsy,bsx->byx", rows, columns)
        return seen


def _covered(center: Tensor, share: float, extent: int) -> Tensor:
    """Return how much of each pixel an interval covers: centers (B, steps) -> (B, steps, extent)."""
    middle = (center.unsqueeze(-1) + 1) / 2 * extent
    left = torch.arange(extent, device=center.device, dtype=center.dtype)
    start, end = middle - share * extent / 2, middle + share * extent / 2
    return (torch.minimum(end, left + 1) - torch.maximum(start, left)).clamp(0, 1)
