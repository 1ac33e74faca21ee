"""Random changes of training images, a whole batch at once, on the device on which it lies.

Each image has draws of its own, all frames of a clip the same ones. They are drawn on the CPU, by the global
generator, so that a seed means the same draws on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.config.recipe import Augment
from saccade.training.augment.random_resized_crop import random_boxes, resized, uniform


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Cut a window of each image's own size out of it, after a padding with zeros.

    images (B, C, ..., H, W), top and left (B,), from 0 to twice the padding -> as images

    >>> crop(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([0]), torch.tensor([1]), padding=1)
    tensor([[[[0, 0],
              [1, 2]]]])
    """
    (height, width), planes = images.shape[-2:], images.flatten(1, -3).shape[1]
    padded = F.pad(images, [padding] * 4)
    # Rows of windows begin somewhere in the row of all pixels: copied as they lie there, not pixel by pixel.
    plane = torch.arange(len(images) * planes, device=images.device).view(-1, planes, 1)
    row = plane * padded.shape[-2] + top[:, None, None] + torch.arange(height, device=images.device)
    start = row * padded.shape[-1] + left[:, None, None]
    windows = padded.flatten().unfold(0, width, 1)
    return windows.index_select(0, start.flatten()).view(images.shape)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the chosen images, left and right. images (B, ..., W), flipped bool (B,) -> as images."""
    both = torch.cat([images, images.flip(-1)])  # of which whole images are copied
    index = torch.arange(len(images), device=images.device)
    return both.index_select(0, index + len(images) * flipped)


class Crop(nn.Module):
    """A window of each image at a random place, after zeros of an eighth of its width on every side."""

    def forward(self, images: Tensor) -> Tensor:
        padding = max(1, images.shape[-1] // 8)
        top, left = torch.randint(2 * padding + 1, (2, len(images))).to(images.device)
        return crop(images, top, left, padding)


class Scale(nn.Module):
    """A part of each image, from 8% of its area up, resized to the whole: Szegedy et al., CVPR 2015.

    The values are those of torchvision's `RandomResizedCrop`, bilinear; all frames of a clip show one part.
    """

    def forward(self, images: Tensor) -> Tensor:
        planes = images.flatten(1, -3).float()
        count, _, height, width = planes.shape
        boxes = random_boxes(count, height, width, least=0.08).to(images.device)
        parts = resized(planes, boxes, torch.zeros_like(boxes[:, 0], dtype=torch.bool)).view(images.shape)
        return parts if images.is_floating_point() else parts.round_().to(images.dtype)


class Flip(nn.Module):
    """Each image mirrored left and right, or not, at random."""

    def forward(self, images: Tensor) -> Tensor:
        return flip(images, (uniform(len(images)) < 0.5).to(images.device))


def augmentation(name: Augment) -> nn.Sequential:
    """Return a recipe's augmentation of a batch, of the same shape and kind of numbers. None: the identity.

    >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> augmentation("crop-flip")(images).shape
    torch.Size([4, 3, 32, 32])
    """
    kinds = {"crop": Crop, "scale": Scale, "flip": Flip}
    return nn.Sequential(*(kinds[part]() for part in name.split("-") if part != "none"))
