"""The task: images or clips with labels and, where it is known, a mask of the true place to look."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from saccade.errors import BadData


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a task: `images` uint8 (N, 3, H, W), `labels` (N,), `masks` bool (N, H, W) or None.

    Of clips the images are (N, 3, T, H, W) and the masks (N, T, H, W).
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Task:
    """Three splits of labelled images that fit in memory.

    skipped     of images that could not be read and were left out, if that was asked for: which, and why

    Raises `BadData` if a split is empty, has other than one label for each image or a label without a class,
    or if the training images are of a single class.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    skipped: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            if not len(split):
                raise BadData(f"{self.name}: the {part} split holds no image")
            if len(split.images) != len(split.labels):
                raise BadData(
                    f"{self.name}: the {part} split holds {len(split.images)} images and {len(split)} labels"
                )
            least, most = (int(label) for label in split.labels.aminmax())
            if least < 0 or most >= len(self.classes):
                raise BadData(
                    f"{self.name}: the labels of the {part} split reach from {least} to {most}; "
                    f"those of {len(self.classes)} classes are 0 to {len(self.classes) - 1}"
                )
        if len(self.train.labels.unique()) < 2:
            only = self.classes[int(self.train.labels[0])]
            raise BadData(f"{self.name}: the training images are of a single class, {only!r}; two are needed")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, (3, H, W), or of a clip, (3, T, H, W)."""
        return tuple(self.train.images.shape[1:])

    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the training images, on the scale [0, 1]."""
        pixels = self.train.images.float().div_(255)
        others = [axis for axis in range(pixels.ndim) if axis != 1]
        return pixels.mean(others), pixels.std(others).clamp_min(1e-3)

    def chance_error(self) -> float:
        """Return the test error of always answering the most frequent class of the test images."""
        counts = torch.bincount(self.test.labels, minlength=len(self.classes))
        return 1 - counts.max().item() / len(self.test)
