"""Standard data sets through torchvision, whole and in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from saccade.data.task import Split, Task
from saccade.errors import BadData, BadOption, check_choice, check_positive

#: Names of ours, and of torchvision's classes.
SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "stl10": "STL10",
}


def load_standard(
    name: str,
    root: str = "~/.cache/saccade",
    download: bool = True,
    size: int | None = None,
    val_fraction: float = 0.1,
    max_samples: int | None = None,
    seed: int = 0,
) -> Task:
    """A standard data set: its own test images; a share `val_fraction` of its training images for validation.

    name        cifar10, cifar100, fashion_mnist, mnist or stl10
    root        folder of the data set, as torchvision keeps it; with `download`, filled if it is not there
    size        side of the images in pixels, by default their own
    max_samples       at most this many images of each split, drawn at random

    Raises `BadData` if the data set is not below `root` and is not, or cannot be, downloaded; `BadOption`
    for values out of range.
    """
    check_choice("standard", "name", name, list(SETS))
    check_positive(
        name,
        **{key: value for key, value in (("size", size), ("max_samples", max_samples)) if value is not None},
    )
    if not 0 < val_fraction < 0.5:
        raise BadOption(f"{name}: val_fraction={val_fraction} must lie between 0 and 0.5")
    images, labels, classes = read_standard(name, root, train=True, download=download)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    count = max(1, round(val_fraction * len(labels)))
    test_images, test_labels, _ = read_standard(name, root, train=False, download=download)
    parts = {
        "train": (images, labels, order[count:]),
        "validation": (images, labels, order[:count]),
        "test": (test_images, test_labels, rng.permutation(len(test_labels)) if max_samples else slice(None)),
    }
    splits = {
        part: Split(
            _resized(torch.from_numpy(its[chosen][:max_samples]), size),
            torch.from_numpy(answers[chosen][:max_samples]),
        )
        for part, (its, answers, chosen) in parts.items()
    }
    return Task(name, classes, *splits.values())


def read_standard(
    name: str, root: str, *, train: bool, download: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Return the images (N, 3, H, W) of one part of a data set, their labels, and the names of the classes.

    Raises `BadData` if the data set is not below `root` and is not, or cannot be, downloaded.
    """
    from torchvision import datasets

    folder = Path(root).expanduser()
    part: dict[str, Any] = {"split": "train" if train else "test"} if name == "stl10" else {"train": train}
    try:
        found = getattr(datasets, SETS[name])(folder, download=download, **part)
    except (OSError, RuntimeError) as error:
        instead = "could not be downloaded" if download else "is not to be downloaded"
        raise BadData(f"{name} is not in {str(folder)!r} and {instead} ({error})") from error
    pixels = np.asarray(found.data, dtype=np.uint8)
    if pixels.ndim == 3:  # gray
        pixels = np.repeat(pixels[:, None], 3, axis=1)
    elif pixels.shape[-1] == 3:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    labels = np.asarray(found.labels if name == "stl10" else found.targets, dtype=np.int64)
    return pixels, labels, tuple(str(label) for label in found.classes)


def _resized(images: Tensor, size: int | None) -> Tensor:
    """Return uint8 images (N, 3, H, W) of side `size`."""
    if size is None or not len(images) or images.shape[-2:] == (size, size):
        return images.contiguous()
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .byte()
        for part in images.split(1000)
    ]
    return torch.cat(parts)
