"""Checks and steps that several metrics share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.errors import BadOption, BadShape

Predict = Callable[[Tensor], Tensor]


def check_finite(owner: str, heatmap: Tensor, when: str = "") -> None:
    """Raise `BadOption` unless a heat map holds finite real numbers."""
    if heatmap.is_complex():
        problem = f"the heat map is {heatmap.dtype}, expected real numbers"
        raise BadOption.of(owner, problem, heatmap=heatmap.dtype)
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        raise BadOption.of(owner, f"{wrong} values of the heat map are not finite{when}", heatmap=wrong)


def scores_of(owner: str, predict: Predict, images: Tensor) -> Tensor:
    """Return the scores of images, (B, classes).

    Raises:
        BadShape: `predict` returned another shape.
    """
    scores = predict(images)
    if scores.ndim != 2 or len(scores) != len(images):
        shape, count = tuple(scores.shape), len(images)
        problem = f"predict returned {shape} for {count} images, expected ({count}, classes)"
        raise BadShape.of(owner, problem, predict=shape)
    return scores.to(images.device)


def image_classes(
    owner: str, target: Tensor | None, predict: Predict, images: Tensor, batch_size: int
) -> Tensor:
    """Return the class of each image, (B,), on the device of the images; by default the predicted class."""
    if target is None:
        scores = [scores_of(owner, predict, part) for part in images.split(batch_size)]
        return torch.cat(scores).argmax(1)
    if target.is_floating_point() or target.shape != images.shape[:1] or int(target.min()) < 0:
        shape, expected = tuple(target.shape), f"one class of at least 0 for each of {len(images)} images"
        problem = f"target must hold {expected}, got {target.dtype} of shape {shape}"
        raise BadOption.of(owner, problem, target=shape)
    return target.to(images.device).long()


def pixel_ranks(heat: Tensor, order: Tensor) -> Tensor:
    """Return the rank of each pixel from the highest heat, (B, H, W); `order` breaks ties."""
    ranked = order[heat.flatten(1)[:, order].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.arange(len(order), device=heat.device).expand_as(ranked)
    return torch.empty_like(ranked).scatter_(1, ranked, ranks).reshape(heat.shape)
