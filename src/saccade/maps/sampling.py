"""Maps of mechanisms that select positions by coordinates: sampling grids and fixations.

Coordinates are (x, y) in [-1, 1] from edge to edge: (-1, -1) is the upper left corner of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps.base import AttentionMap


def sampling_density(
    points: Tensor, size: tuple[int, int], weights: Tensor | None = None, *, align_corners: bool = False
) -> Tensor:
    """Distribute the weight of each point over its four nearest pixels, as bilinear sampling reads them.

    Args:
        points: Sampling points (x, y), (B, n, 2). Points outside the image contribute nothing.
        size: Height and width (H, W) of the sampled image.
        weights: Weight of each point, (B, n); by default 1.
        align_corners: Whether -1 and 1 are the centers of the outermost pixels instead of their outer edges.

    Returns:
        The sum of the weights at each pixel, (B, H, W).
    """
    height, width = size
    points = points.float() + 1
    x, y = (
        (point * (extent - 1) if align_corners else point * extent - 1) / 2
        for point, extent in zip(points.unbind(-1), (width, height), strict=True)
    )
    density = points.new_zeros(points.shape[0], height * width)
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            weight = weight if weights is None else weight * weights
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # False for NaN
            index = torch.where(inside, row * width + column, 0).long()
            density.scatter_add_(1, index, torch.where(inside, weight, 0))
    return density.reshape(-1, *size)


@dataclass(frozen=True, eq=False)
class GridMap(AttentionMap):
    """The points at which an image is sampled.

    The heat map is the density of the samples: each point distributes a weight of 1 over its four nearest
    pixels by the coefficients of bilinear sampling. Points outside the image contribute nothing.

    Args:
        grid: Sampling points (x, y), (B, H', W', 2).
        size: Height and width (H, W) of the sampled image.
        align_corners: Whether -1 and 1 are the centers of the outermost pixels instead of their outer edges.

    Example:
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
        points = self.grid.flatten(1, 2)
        return sampling_density(points, self.size, align_corners=self.align_corners)


@dataclass(frozen=True, eq=False)
class FixationMap(AttentionMap):
    """The sequence of locations at which a mechanism looks.

    The heat map counts the footprints of all fixations: how often each pixel is covered.

    Args:
        locations: Locations (x, y) in order, (B, steps, 2).
        extents: Height and width of the footprint at each location as fractions of the image, one pair per
            scale.
        size: Height and width at which the heat map is computed.

    Example:
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
        locations = self.locations.float()
        counts = locations.new_zeros(locations.shape[0], *self.size)
        for height, width in self.extents:
            rows = _coverage(locations[..., 1], height, self.size[0])
            columns = _coverage(locations[..., 0], width, self.size[1])
            counts = counts + torch.einsum("bsy,bsx->byx", rows, columns)
        return counts


def _coverage(center: Tensor, fraction: float, extent: int) -> Tensor:
    """Return the covered fraction of each pixel of an axis: centers (B, steps) -> (B, steps, extent)."""
    middle = (center.unsqueeze(-1) + 1) / 2 * extent
    left = torch.arange(extent, device=center.device, dtype=center.dtype)
    start, end = middle - fraction * extent / 2, middle + fraction * extent / 2
    return (torch.minimum(end, left + 1) - torch.maximum(start, left)).clamp(0, 1)
