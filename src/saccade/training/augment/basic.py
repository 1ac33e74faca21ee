"""Random augmentation of training images: a whole batch at once, on its device.

Each image has its own draws, which all frames of a clip share. They are drawn on the CPU from the global
generator, so that a seed gives the same draws on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.config import Augment
from saccade.training.augment.random_resized_crop import random_boxes, resize_boxes, uniform


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Crop a window of the original size from each image, after zero padding.

    Args:
        images: Images.
        top: First row of each window, from 0 to `2 * padding`.
        left: First column of each window, from 0 to `2 * padding`.
        padding: Width of the padding on every side.

    Shape:
        - images: `(B, C, ..., H, W)`
        - top, left: `(B,)`
        - Output: same as images.

    Example:
        >>> crop(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([0]), torch.tensor([1]), padding=1)
        tensor([[[[0, 0],
                  [1, 2]]]])
    """
    (height, width), planes = images.shape[-2:], images.flatten(1, -3).shape[1]
    padded = F.pad(images, [padding] * 4)
    # Each row of a window is contiguous in the flat image, so that rows are copied instead of pixels.
    plane = torch.arange(len(images) * planes, device=images.device).view(-1, planes, 1)
    row = plane * padded.shape[-2] + top[:, None, None] + torch.arange(height, device=images.device)
    start = row * padded.shape[-1] + left[:, None, None]
    windows = padded.flatten().unfold(0, width, 1)
    return windows.index_select(0, start.flatten()).view(images.shape)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Flip the selected images horizontally.

    Shape:
        - images: `(B, ..., W)`
        - flipped: bool `(B,)`
        - Output: same as images.
    """
    both = torch.cat([images, images.flip(-1)])  # whole images are copied from it
    index = torch.arange(len(images), device=images.device)
    return both.index_select(0, index + len(images) * flipped)


class Crop(nn.Module):
    """Random crops of the original size, after zero padding by an eighth of the width."""

    def forward(self, images: Tensor) -> Tensor:
        padding = max(1, images.shape[-1] // 8)
        top, left = torch.randint(2 * padding + 1, (2, len(images))).to(images.device)
        return crop(images, top, left, padding)


class Scale(nn.Module):
    """Random resized crops of at least 8% of the area, one for all frames of a clip.

    The values equal those of torchvision's bilinear `RandomResizedCrop`.

    References:
        Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich. Going Deeper with
        Convolutions. CVPR 2015.
    """

    def forward(self, images: Tensor) -> Tensor:
        planes = images.flatten(1, -3).float()
        count, _, height, width = planes.shape
        boxes = random_boxes(count, height, width, least=0.08).to(images.device)
        flipped = torch.zeros_like(boxes[:, 0], dtype=torch.bool)
        crops = resize_boxes(planes, boxes, flipped).view(images.shape)
        return crops if images.is_floating_point() else crops.round_().to(images.dtype)


class Flip(nn.Module):
    """Random horizontal flips, with probability 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        return flip(images, (uniform(len(images)) < 0.5).to(images.device))


def augmentation(name: Augment) -> nn.Sequential:
    """Return the augmentation of a recipe, which keeps shape and dtype of a batch.

    Example:
        >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> augmentation("crop-flip")(images).shape
        torch.Size([4, 3, 32, 32])
    """
    kinds = {"crop": Crop, "scale": Scale, "flip": Flip}
    return nn.Sequential(*(kinds[part]() for part in name.split("-") if part != "none"))
