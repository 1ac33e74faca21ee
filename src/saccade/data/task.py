"""The task: images or clips with labels and, where it is known, a mask of the true place to look."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from saccade.errors import BadData

_CHUNK = 2**21  # values that are summed up at a time


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a task: `images` uint8 (N, 3, H, W), `labels` (N,), `masks` bool (N, H, W) or None.

    Of clips the images are (N, 3, T, H, W) and the masks (N, T, H, W). `moments`, where they are known
    already, are what the function `moments` would return for the images.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TaskInfo:
    """What a model needs to know of a task: not its images.

    Attributes:
        classes: Names of the classes.
        shape: Shape of one image, `(3, H, W)`, or clip, `(3, T, H, W)`.
        mean: Mean of each channel of the training images on the scale [0, 1], `(3,)`.
        std: Standard deviation of each channel on the same scale, `(3,)`.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """Three splits of labeled images, in memory or in files that are mapped into it.

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

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the training images, on the scale [0, 1]."""
        mean, std = self._moments
        return mean.clone(), std.clone()  # they become the buffers of networks, which may change them

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.train.moments or moments(self.train.images)

    def info(self) -> TaskInfo:
        """Return what a model needs to know of the task."""
        return TaskInfo(self.classes, self.shape, *self.normalization())

    def chance_error(self) -> float:
        """Return the test error of always answering the most frequent class of the test images."""
        counts = torch.bincount(self.test.labels, minlength=len(self.classes))
        return 1 - counts.max().item() / len(self.test)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of uint8 images, on the scale [0, 1], as float32.

        mean = s / n        std = sqrt((q - s^2 / n) / (n - 1)), at least 0.001

    with the sums s of the n values of a channel and q of their squares, in float64, in which they are
    exact up to 10^11 values. images (N, C, ...) -> (C,) and (C,). A few images at a time: all of them would
    take eight times their memory.

    >>> moments(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    (tensor([0.5000]), tensor([0.7071]))
    """
    channels = images.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    for part in images.split(max(1, _CHUNK // max(1, images[:1].numel()))):
        values = part.transpose(0, 1).flatten(1).double()
        total += values.sum(1)
        squares += values.square_().sum(1)
    count = max(2, images.numel() // channels)
    std = ((squares - total**2 / count) / (count - 1)).clamp_min(0).sqrt()
    return (total / count / 255).float(), (std / 255).clamp_min(1e-3).float()
