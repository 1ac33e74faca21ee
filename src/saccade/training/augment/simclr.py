"""Random views of images for contrastive learning, a whole batch at once, on the device on which it lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.training.augment.random_resized_crop import random_boxes, resized, uniform

GRAY = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
WHITE = 255.0


class Views(nn.Module):
    """Two random views of each image: a part of it resized, in other colors.

    images (B, 3, H, W), or clips (B, 3, T, H, W), of the values 0 to 255 -> float (2B, ...), the first views
    of all images and then the second ones. All frames of a clip are seen alike.

    Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020 (appendix A, and B.9, as for CIFAR-10: without blur). Each view has draws of its own, taken on
    the CPU from the global generator.

    Deviations: a part is a fifth of the image at least. The four changes of color come in an order that is
    drawn once for a batch, not for each view.

    flip      whether views are mirrored, left and right, with a probability of 1/2
    color    strength of the change of colors, up to 1; without, views are parts of the image alone

    >>> Views()(torch.zeros(5, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([10, 3, 32, 32])
    """

    def __init__(self, flip: bool = False, color: float = 0.5) -> None:
        super().__init__()
        self.flip, self.color = flip, color

    def forward(self, images: Tensor) -> Tensor:
        planes = images.flatten(1, -3).repeat(2, 1, 1, 1).float()
        count, _, height, width = planes.shape
        mirrored = (uniform(count) < 0.5) & self.flip
        boxes = random_boxes(count, height, width)
        parts = resized(planes, boxes.to(images.device), mirrored.to(images.device))
        views = parts.view(count, *images.shape[1:])
        return self._colored(views) if self.color else views

    def _colored(self, views: Tensor) -> Tensor:
        count, reach = len(views), 0.8 * self.color
        jittered = (uniform(count) < 0.8).float()  # the others are changed by nothing
        factors = 1 + jittered * reach * (2 * uniform(3, count) - 1)
        turns = jittered * 0.2 * self.color * (2 * uniform(count) - 1)
        colors = (uniform(count) >= 0.2).float()  # the others become gray
        draws = torch.cat([factors, turns[None], colors[None]])
        brightness, contrast, saturation, hue, colors = draws.to(views.device)
        changes = [(brighten, brightness), (contrasted, contrast), (saturated, saturation), (turned, hue)]
        for index in torch.randperm(len(changes)).tolist():
            change, values = changes[index]
            views = change(views, values)
        return saturated(views, colors)


def gray(images: Tensor) -> Tensor:
    """Return the luminance 0.299 R + 0.587 G + 0.114 B. images (B, 3, ...) -> (B, 1, ...)."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).unsqueeze(1)


def brighten(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image (B, 3, ...) by its factor (B,)."""
    return (images * _each(factors, images)).clamp_(0, WHITE)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Move each image (B, 3, ...) from its mean gray, or towards it: factor * x + (1 - factor) * mean."""
    mean = gray(images).flatten(1).mean(1)
    return _blend(images, _each(mean, images), factors)


def saturated(images: Tensor, factors: Tensor) -> Tensor:
    """Move each image (B, 3, ...) from its own gray, or towards it: factor * x + (1 - factor) * gray."""
    return _blend(images, gray(images), factors)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each image (B, 3, ...) by a part of the circle, `turns` (B,) from -0.5 to 0.5.

    With V = max(R, G, B), C = V - min(R, G, B) and the hue H in sixths of the circle, the colors are

        V - C clamp(2 - |d|, 0, 1)        d = H - 3 (R), H - 5 (G), H - 1 (B), around the circle: -3 to 3
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
