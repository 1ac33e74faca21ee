"""Checks of options that several tasks share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from saccade.errors import bad_option, check_choice, check_positive

OnBadImage = Literal["fail", "skip"]

#: Names of each split in data sets of others, in the order in which they are tried.
SPLIT_NAMES = {
    "train": ("train", "trainval"),
    "test": ("test",),
    "validation": ("val", "valid", "validation", "dev"),
}


@dataclass(frozen=True)
class ReadingOptions:
    """Options of tasks that read images. Construction checks them.

    Args:
        owner: Name of the task, for messages.
        size: Height and width of the images in pixels.
        val_fraction: Fraction of the training images that is held out for validation.
        max_samples: Maximum number of images per split.
        seed: Seed of the random selection.
        on_bad_image: What an unreadable image does: "fail" stops loading, "skip" leaves it out.
        workers: Number of threads that decode images; default: one per CPU available to this process.
        cache: Folder of decoded images.

    Raises:
        BadOption: A value is out of range.
    """

    owner: str
    size: int | None
    val_fraction: float
    max_samples: int | None
    seed: int
    on_bad_image: OnBadImage = "fail"
    workers: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        check_optional(self.owner, size=self.size, max_samples=self.max_samples, workers=self.workers)
        check_not_negative(self.owner, seed=self.seed)
        check_choice(self.owner, "on_bad_image", self.on_bad_image, get_args(OnBadImage))
        if not 0 < self.val_fraction < 0.5:
            raise bad_option(self.owner, "must be between 0 and 0.5", val_fraction=self.val_fraction)


def check_memory(owner: str, size: int, count: int | Mapping[str, int], frames: int = 1) -> None:
    """Raise `BadOption` unless square RGB images of `size` pixels fit into the memory of the machine.

    Args:
        owner: Name of the task.
        size: Side of the images.
        count: Number of images, or the number of each part, by the name of the option.
        frames: Number of frames of each image.

    Example:
        >>> check_memory("white-patch", size=1_000_000, count=2000)
        Traceback (most recent call last):
        saccade.errors.BadOption: white-patch: size=1000000 needs 6e+06 GB for 2000 images; ...
    """
    images = count if isinstance(count, int) else sum(count.values())
    needed = 3 * size**2 * images * frames
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total:
        expected = f"needs {needed / 1e9:.3g} GB for {images} images; this machine has {total / 1e9:.0f} GB"
        option, value = "size", size
        if not isinstance(count, int) and max(count.values()) > size**2:
            option, value = max(count.items(), key=lambda part: part[1])
        raise bad_option(owner, expected, **{option: value})


def check_optional(owner: str, **values: object) -> None:
    """Raise `BadOption` unless every value is None or an integer of at least 1."""
    check_positive(owner, **{name: value for name, value in values.items() if value is not None})


def check_not_negative(owner: str, **values: object) -> None:
    """Raise `BadOption` unless every value is an integer of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise bad_option(owner, "must be an integer of at least 0", **{name: value})
