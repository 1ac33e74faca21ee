"""Standard data sets of torchvision, in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from saccade.data.checks import ReadingOptions, check_memory
from saccade.data.task import Split, Task
from saccade.errors import BadData, check_choice

#: Task name -> class of torchvision.
TORCHVISION_SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "stl10": "STL10",
}


def load_torchvision(
    name: str,
    root: str = "~/.cache/saccade",
    download: bool = True,
    size: int | None = None,
    val_fraction: float = 0.1,
    max_samples: int | None = None,
    seed: int = 0,
) -> Task:
    """Load a standard data set of torchvision with its own test images.

    Args:
        name: "cifar10", "cifar100", "fashion_mnist", "mnist" or "stl10".
        root: Folder of the data set, in the layout of torchvision.
        download: Download the data set if `root` does not contain it.
        size: Height and width of the images in pixels; default: their own.
        val_fraction: Fraction of the training images that is held out for validation.
        max_samples: Maximum number of images per split, drawn at random.
        seed: Seed of the random selection.

    Raises:
        BadData: The data set is not in `root` and is not, or cannot be, downloaded.
        BadOption: A value is out of range.
    """
    check_choice("torchvision", "name", name, list(TORCHVISION_SETS))
    ReadingOptions(name, size, val_fraction, max_samples, seed)
    train, test = read_torchvision(name, root, download)
    count = len(train.labels)
    check_memory(name, size or train.images.shape[-1], min(count, max_samples or count))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train.labels))
    test_order = rng.permutation(len(test.labels)) if max_samples else np.arange(len(test.labels))
    count = max(1, round(val_fraction * len(order)))
    splits = []
    for part, indices in ((train, order[count:]), (train, order[:count]), (test, test_order)):
        chosen = indices[:max_samples]
        images = _resize(torch.from_numpy(part.images[chosen]), size)
        splits.append(Split(images, torch.from_numpy(part.labels[chosen])))
    return Task(name, train.classes, *splits)


class LabeledImages(NamedTuple):
    """Images (N, 3, H, W), their labels, and the names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_torchvision(name: str, root: str, download: bool = True) -> tuple[LabeledImages, LabeledImages]:
    """Return the training part and the test part of a data set.

    Raises:
        BadData: The data set is not in `root` and is not, or cannot be, downloaded.
    """
    return _read_part(name, root, download, train=True), _read_part(name, root, download, train=False)


def _read_part(name: str, root: str, download: bool, *, train: bool) -> LabeledImages:
    from torchvision import datasets

    folder = Path(root).expanduser()
    part: dict[str, Any] = {"split": "train" if train else "test"} if name == "stl10" else {"train": train}
    try:
        dataset = getattr(datasets, TORCHVISION_SETS[name])(folder, download=download, **part)
    except (OSError, RuntimeError) as error:
        reason = "the download failed" if download else "downloads are disabled"
        message = f"{name} is not in {str(folder)!r} and {reason} ({error})"
        raise BadData(message, owner=name, option="root", value=root) from error
    pixels = np.asarray(dataset.data, dtype=np.uint8)
    if pixels.ndim == 3:  # gray
        pixels = np.repeat(pixels[:, None], 3, axis=1)
    elif pixels.shape[-1] == 3:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    labels = np.asarray(dataset.labels if name == "stl10" else dataset.targets, dtype=np.int64)
    return LabeledImages(pixels, labels, tuple(map(str, dataset.classes)))


def _resize(images: Tensor, size: int | None) -> Tensor:
    """Resize uint8 images (N, 3, H, W) to a square of `size` pixels."""
    if size is None or not len(images) or images.shape[-2:] == (size, size):
        return images.contiguous()
    resize = partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True)
    return torch.cat([resize(part.float()).round_().clamp_(0, 255).byte() for part in images.split(1000)])
