"""Random resized crops: a whole batch at once, with a different box for each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(*shape: int) -> Tensor:
    """Draw numbers in [0, 1) on the CPU, in float32, whatever the precision of the training."""
    return torch.rand(shape, dtype=torch.float32)


def random_boxes(count: int, height: int, width: int, least: float = 0.2, attempts: int = 10) -> Tensor:
    """Draw random boxes in an image.

    The area is uniform between `least` of the image and the whole image. The logarithm of width / height is
    uniform between log(3/4) and log(4/3). The first of several attempts that fits into the image is used. If
    none fits, the box is the largest one in the center with an aspect ratio in this range.

    Args:
        count: Number of boxes.
        height: Height of the image.
        width: Width of the image.
        least: Minimum fraction of the area.
        attempts: Number of attempts per box.

    Returns:
        Top, left, height and width in whole pixels, `(count, 4)`.
    """
    area = height * width * (least + (1 - least) * uniform(attempts, count))
    aspect = (4 / 3) ** (2 * uniform(attempts, count) - 1)
    sizes = torch.stack([area / aspect, area * aspect]).sqrt().round()
    whole = torch.tensor([[height], [width]])
    fits = ((sizes >= 1) & (sizes <= whole[:, None])).all(0)
    first = fits.byte().argmax(0).expand(2, 1, -1)
    largest = torch.tensor([[min(height, round(width * 4 / 3))], [min(width, round(height * 4 / 3))]])
    size = torch.where(fits.any(0), sizes.gather(1, first)[:, 0], largest)
    room = whole - size
    start = torch.where(fits.any(0), (uniform(2, count) * (room + 1)).floor(), room // 2)
    return torch.cat([start, size]).T


def resize_boxes(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Resize a box of each image to the size of the image, bilinearly, and flip the selected ones.

    A box is never larger than its image, so that no antialiasing is needed. Pixels outside of the box have no
    influence.

    Args:
        images: Images.
        boxes: Top, left, height and width of each box.
        flipped: Whether each result is flipped horizontally.

    Shape:
        - images: float `(B, C, H, W)`
        - boxes: `(B, 4)`
        - flipped: bool `(B,)`
        - Output: same as images.
    """
    top, left, height, width = boxes.T
    x = _centers(left, width, images.shape[3])
    y = _centers(top, height, images.shape[2])
    x = torch.where(flipped[:, None], x.flip(1), x)
    rows, columns = y[:, :, None].expand(-1, -1, x.shape[1]), x[:, None].expand(-1, y.shape[1], -1)
    grid = torch.stack([columns, rows], 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centers(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return the centers of `size` pixels in an interval, `(B, size)`, from -1 to 1 over the image."""
    pixel = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    inside = torch.minimum(length[:, None] * (pixel / size), length[:, None] - 0.5).clamp_min(0.5)
    return 2 * (start[:, None] + inside) / size - 1
