"""Random parts of images, resized: a whole batch at once, each image with a part of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(*shape: int) -> Tensor:
    """Draw numbers from 0 to 1 on the CPU, in float32, whatever the precision of the training."""
    return torch.rand(shape, dtype=torch.float32)


def random_boxes(count: int, height: int, width: int, least: float = 0.2, attempts: int = 10) -> Tensor:
    """Draw parts of an image: (count, 4), their top, left, height and width in whole pixels.

    The area is uniform, from `least` of the image's to all of it, the logarithm of width / height uniform
    from that of 3/4 to that of 4/3. Of several attempts the first one that fits into the image counts, or
    else the largest part in the middle of it that is of such a form.
    """
    area = height * width * (least + (1 - least) * uniform(attempts, count))
    form = (4 / 3) ** (2 * uniform(attempts, count) - 1)
    sizes = torch.stack([area / form, area * form]).sqrt().round()
    whole = torch.tensor([[height], [width]])
    fits = ((sizes >= 1) & (sizes <= whole[:, None])).all(0)
    first = fits.byte().argmax(0).expand(2, 1, -1)
    largest = torch.tensor([[min(height, round(width * 4 / 3))], [min(width, round(height * 4 / 3))]])
    size = torch.where(fits.any(0), sizes.gather(1, first)[:, 0], largest)
    room = whole - size
    start = torch.where(fits.any(0), (uniform(2, count) * (room + 1)).floor(), room // 2)
    return torch.cat([start, size]).T


def resized(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Resize a part of each image to the size of the whole, bilinearly, and mirror it if that is chosen.

    images float (B, C, H, W), boxes (B, 4), top, left, height, width, mirrored bool (B,) -> (B, C, H, W)

    A part is not larger than the image, so that nothing is made smaller, which would ask for antialiasing.
    Nothing outside of the part is seen.
    """
    top, left, height, width = boxes.T
    x = _centres(left, width, images.shape[3])
    y = _centres(top, height, images.shape[2])
    x = torch.where(mirrored[:, None], x.flip(1), x)
    rows, columns = y[:, :, None].expand(-1, -1, x.shape[1]), x[:, None].expand(-1, y.shape[1], -1)
    grid = torch.stack([columns, rows], 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where `size` pixels that share a part lie in it, (B, size), from -1 to 1 over the image."""
    pixel = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    inside = torch.minimum(length[:, None] * (pixel / size), length[:, None] - 0.5).clamp_min(0.5)
    return 2 * (start[:, None] + inside) / size - 1
