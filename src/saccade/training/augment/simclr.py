"""Random views of images for contrastive learning: a whole batch at once, on its device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.training.augment.random_resized_crop import random_boxes, resize_boxes, uniform

GRAY = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
WHITE = 255.0


class Views(nn.Module):
    """Two random views of each image: random resized crops with color distortion.

    Each view has its own draws, from the global generator of the CPU. All frames of a clip share them.

    References:
        Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual
        Representations. ICML 2020. Appendix A, and B.9 for CIFAR-10 (without blur).

    Args:
        flip: Whether views are flipped horizontally with probability 1/2.
        color: Strength of the color distortion, from 0 (none) to 1.

    Shape:
        - Input: images `(B, 3, H, W)` or clips `(B, 3, T, H, W)` with values from 0 to 255.
        - Output: float `(2B, ...)`, the first views of all images, then the second ones.

    Note:
        A crop has at least a fifth of the area of the image. The order of the four color transforms is drawn
        once per batch, not per view.

    Example:
        >>> Views()(torch.zeros(5, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([10, 3, 32, 32])
    """

    def __init__(self, flip: bool = False, color: float = 0.5) -> None:
        super().__init__()
        self.flip, self.color = flip, color

    def forward(self, images: Tensor) -> Tensor:
        planes = images.flatten(1, -3).repeat(2, 1, 1, 1).float()
        count, _, height, width = planes.shape
        flipped = (uniform(count) < 0.5) & self.flip
        boxes = random_boxes(count, height, width)
        crops = resize_boxes(planes, boxes.to(images.device), flipped.to(images.device))
        views = crops.view(count, *images.shape[1:])
        return self._distort(views) if self.color else views

    def _distort(self, views: Tensor) -> Tensor:
        count, reach = len(views), 0.8 * self.color
        jittered = (uniform(count) < 0.8).float()  # the other views keep their colors
        factors = 1 + jittered * reach * (2 * uniform(3, count) - 1)
        turns = jittered * 0.2 * self.color * (2 * uniform(count) - 1)
        colors = (uniform(count) >= 0.2).float()  # the other views become gray
        draws = torch.cat([factors, turns[None], colors[None]])
        brightness, contrast, saturation, hue, colors = draws.to(views.device)
        transforms = [
            (adjust_brightness, brightness),
            (adjust_contrast, contrast),
            (adjust_saturation, saturation),
            (adjust_hue, hue),
        ]
        for index in torch.randperm(len(transforms)).tolist():
            transform, values = transforms[index]
            views = transform(views, values)
        return adjust_saturation(views, colors)


def to_gray(images: Tensor) -> Tensor:
    """Return the luminance `0.299 R + 0.587 G + 0.114 B` of images `(B, 3, ...)`, `(B, 1, ...)`."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).unsqueeze(1)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image `(B, 3, ...)` by its factor, `(B,)`."""
    return (images * _each(factors, images)).clamp_(0, WHITE)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image `(B, 3, ...)` with its mean gray: `factor * x + (1 - factor) * mean`."""
    mean = to_gray(images).flatten(1).mean(1)
    return _blend(images, _each(mean, images), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image `(B, 3, ...)` with its luminance: `factor * x + (1 - factor) * gray`."""
    return _blend(images, to_gray(images), factors)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of each image `(B, 3, ...)` by a fraction of the circle, `turns` `(B,)` in [-0.5, 0.5].

    With `V = max(R, G, B)`, `C = V - min(R, G, B)` and the hue `H` in sixths of the circle, the colors are

        V - C clamp(2 - |d|, 0, 1)        d = H - 3 (R), H - 5 (G), H - 1 (B), wrapped to [-3, 3]
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    ahead = torch.where(value == green, 2 * chroma + blue - red, 4 * chroma + red - green)
    ahead = torch.where(value == red, green - blue, ahead)
    hue = ahead / chroma.clamp_min(1e-6) + 6 * _each(turns, value)
    away = (hue - pure for pure in (3, 5, 1))
    shares = ((2 - (d - 6 * (d / 6).round_()).abs_()).clamp_(0, 1) for d in away)
    return torch.stack([value - chroma * share for share in shares], 1)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    return torch.lerp(others.expand_as(images), images, _each(factors, images)).clamp_(0, WHITE)


def _each(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *[1] * (images.ndim - 1))
