"""The task: three splits of labeled images or clips, with masks of the target if these are known.

The labels are one class per image or, for segmentation, one per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from saccade.errors import BadData

PARTS = ("train", "validation", "test")
#: Label of pixels without a class. They are neither trained nor counted.
IGNORED = 255

_CHUNK = 2**21  # values that are summed at a time


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a task.

    Attributes:
        images: Images, uint8 (N, 3, H, W), or clips (N, 3, T, H, W).
        labels: Labels, int64 (N,); for segmentation those of the pixels, uint8 (N, H, W), with `IGNORED`
            where there is no class.
        masks: Masks of the target, bool (N, H, W), of clips (N, T, H, W), or None.
        moments: The result of the function `moments` for the images, if it is already known.
        redraw: Function that returns the images of an epoch, if each epoch of training has images of its own
            for the same labels. It depends on the epoch alone, so that a resumed run sees the same images.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)
    redraw: Callable[[int], Tensor] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> Split:
        """Return the images with these indices, or those of a bool mask, with labels and masks."""
        masks, redraw = None if self.masks is None else self.masks[index], self.redraw
        selected = None if redraw is None else lambda epoch: redraw(epoch)[index]
        return Split(self.images[index], self.labels[index], masks, redraw=selected)

    def counted(self) -> Tensor:
        """Return all labels that count, of images or of pixels, in one dimension."""
        return self.labels if self.labels.ndim == 1 else self.labels[self.labels != IGNORED]


@dataclass(frozen=True, eq=False)
class TaskInfo:
    """The facts about a task that a model needs.

    Attributes:
        classes: Names of the classes.
        shape: Shape of one image, `(3, H, W)`, or clip, `(3, T, H, W)`.
        mean: Mean of each channel of the training images on the scale [0, 1], `(3,)`.
        std: Standard deviation of each channel on the same scale, `(3,)`.
        segmentation: Whether each pixel has a class, instead of each image.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    mean: Tensor
    std: Tensor
    segmentation: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """Three splits of labeled images, in memory or in files that are mapped into memory.

    Attributes:
        name: Name of the task.
        classes: Names of the classes.
        train: Training split.
        validation: Validation split.
        test: Test split.
        skipped: One sentence for each image that was left out because it could not be read.
        notes: Sentences on how the splits were chosen, if that is not what the names of the files say.

    Raises:
        BadData: A split is empty, the numbers of images and labels differ, a label has no class, or all
            training images have the same label.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    skipped: tuple[str, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for part in PARTS:
            split: Split = getattr(self, part)
            images, labels, classes = len(split.images), len(split), len(self.classes)
            if not labels:
                raise BadData.of(self.name, f"the {part} split contains no image", **{part: 0})
            if images != labels:
                problem = f"the {part} split has {images} images, {labels} labels"
                raise BadData.of(self.name, problem, **{part: (images, labels)})
            if not len(split.counted()):
                raise BadData.of(self.name, f"no pixel of the {part} split has a class", **{part: 0})
            least, most = (int(label) for label in split.counted().aminmax())
            if least < 0 or most >= classes:
                expected = f"0 to {classes - 1} were expected for {classes} classes"
                problem = f"the labels of the {part} split range from {least} to {most}; {expected}"
                raise BadData.of(self.name, problem, **{part: (least, most)})
        found = self.train.counted().unique()
        if len(found) < 2:
            only = self.classes[int(found)]
            problem = f"the training images have a single class, {only!r}; two are required"
            raise BadData.of(self.name, problem, classes=only)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, (3, H, W), or of a clip, (3, T, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def segmentation(self) -> bool:
        """Whether each pixel has a class, instead of each image."""
        return self.train.labels.ndim > 1

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the training images, on the scale [0, 1]."""
        mean, std = self._moments
        return mean.clone(), std.clone()  # models register them as buffers and may change them

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.train.moments or moments(self.train.images)

    def info(self) -> TaskInfo:
        """Return the facts that a model needs."""
        return TaskInfo(self.classes, self.shape, *self.normalization(), self.segmentation)

    def chance_error(self) -> float:
        """Return the test error of a constant answer, the most frequent class of the test images or pixels.

        For segmentation, that is one minus the mean IoU over the classes of the test images.
        """
        counts = torch.bincount(self.test.counted(), minlength=len(self.classes))
        right = counts.max().item() / counts.sum().item()
        return 1 - (right / counts.count_nonzero().item() if self.segmentation else right)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each channel of uint8 images, on the scale [0, 1], in float32.

        mean = s / n        std = sqrt((q - s^2 / n) / (n - 1)), at least 0.001

    with the sum s of the n values of a channel and the sum q of their squares. The sums are float64, and
    exact up to 10^11 values. The images are processed in chunks: all at once would need eight times their
    memory.

    Shape:
        - images: (N, C, ...)
        - output: (C,) and (C,)

    Example:
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
