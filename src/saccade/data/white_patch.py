"""Task `white-patch`: does a photograph contain a white square?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from saccade.data.checks import check_memory, check_not_negative
from saccade.data.images import Photograph, image_files, read_image, resize_shorter_side
from saccade.data.task import PARTS, Split, Task
from saccade.data.torchvision_sets import read_torchvision
from saccade.errors import BadData, bad_option, check_positive

CLASSES = ("without", "with")
_TASK = "white-patch"

#: Photographs of each split; no photograph is in two splits. Photographs with overexposed areas, which
#: resemble a white square most, are in the training split.
BUNDLED = {
    "train": (
        "astronaut",
        "china",
        "coffee",
        "hubble_deep_field",
        "immunohistochemistry",
        "motorcycle",
        "retina",
    ),
    "validation": ("flower",),
    "test": ("chelsea", "rocket"),
}


def load_white_patch(
    source: str = "photographs",
    size: int = 96,
    patch: Sequence[int] = (8, 16),
    level: int = 255,
    contrast: float = 1.0,
    train: int = 2000,
    validation: int = 400,
    test: int = 1000,
    seed: int = 0,
    root: str = "~/.cache/saccade",
) -> Task:
    """Generate random crops of photographs, half of them with a square of random size and position.

    The label tells whether the crop contains a square; the mask is the square. Training, validation and test
    crops come from different photographs. Equal arguments give equal crops, bit for bit.

    Args:
        source: "photographs" (bundled); "cifar10" or "stl10" of torchvision; or a folder of images.
        size: Height and width of the crops in pixels.
        patch: Smallest and largest side of the square in pixels.
        level: Gray level of the square, 0 to 255.
        contrast: Opacity of the square: 1 covers the pixels below; smaller values are harder to see.
        train: Number of training crops.
        validation: Number of validation crops.
        test: Number of test crops.
        seed: Seed of all random numbers.
        root: Folder of the data sets of torchvision.

    Raises:
        BadOption: A value is out of range.
        BadData: The source cannot be used.

    Example:
        >>> task = load_white_patch(train=8, validation=4, test=4, size=32)
        >>> task.train.images.shape, task.train.labels.sum().item()
        (torch.Size([8, 3, 32, 32]), 4)
    """
    counts = dict(zip(PARTS, (train, validation, test), strict=True))
    check_positive(_TASK, size=size, **counts)
    check_memory(_TASK, size, counts)
    if len(patch) != 2 or not 1 <= patch[0] <= patch[1] <= size:
        raise bad_option(_TASK, f"must be two sides, 1 <= smallest <= largest <= {size}", patch=tuple(patch))
    if not 0 <= level <= 255:
        raise bad_option(_TASK, "must be between 0 and 255", level=level)
    if not 0 < contrast <= 1:
        raise bad_option(_TASK, "must be greater than 0 and at most 1", contrast=contrast)
    check_not_negative(_TASK, seed=seed)

    def crops(photographs: Sequence[Photograph], count: int, rng: np.random.Generator) -> Split:
        """Return `count` crops in random order, half of them with a square."""
        large = [enlarge(photograph, size) for photograph in photographs]
        images = np.empty((count, 3, size, size), dtype=np.uint8)
        masks = np.zeros((count, size, size), dtype=bool)
        labels = rng.permutation(np.arange(count) % 2)
        for image, mask, label in zip(images.transpose(0, 2, 3, 1), masks, labels, strict=True):
            photograph = large[rng.integers(len(large))]
            top, left = (rng.integers(extent - size + 1) for extent in photograph.shape[:2])
            image[:] = photograph[top : top + size, left : left + size]
            if rng.integers(2):
                image[:] = image[:, ::-1].copy()
            if label:
                side = rng.integers(patch[0], patch[1] + 1)
                y, x = rng.integers(size - side + 1, size=2)
                square = (slice(y, y + side), slice(x, x + side))
                image[square] = np.rint(image[square] * (1 - contrast) + level * contrast)
                mask[square] = True
        return Split(torch.from_numpy(images), torch.from_numpy(labels).long(), torch.from_numpy(masks))

    photographs = _photographs(source, size, root, seed, counts)
    splits = (
        crops(photographs[name], count, np.random.default_rng((seed, index)))
        for index, (name, count) in enumerate(counts.items())
    )
    return Task(_TASK, CLASSES, *splits)


def _photographs(
    source: str, size: int, root: str, seed: int, counts: dict[str, int]
) -> dict[str, list[Photograph]]:
    """Return the photographs of each split; no photograph is in two splits."""
    if source == "photographs":
        return bundled_photographs()
    rng = np.random.default_rng((seed, len(counts)))
    if source in ("cifar10", "stl10"):
        return torchvision_photographs(source, root, max(counts.values()), rng)
    files = image_files(Path(source))
    if len(files) < len(counts):
        problem = f"{source!r} contains {len(files)} images; {len(counts)} are required, one per split"
        raise BadData.of(_TASK, problem, source=source)
    count = max(1, len(files) // 5)
    validation, test, train = np.split(rng.permutation(len(files)), (count, 2 * count))
    return {
        name: [read_image(files[i], max_side=4 * size) for i in indices[: counts[name]]]
        for name, indices in zip(PARTS, (train, validation, test), strict=True)
    }


def bundled_photographs() -> dict[str, list[Photograph]]:
    """Return the bundled photographs of each split. Downloads nothing."""
    return {split: [_bundled(name) for name in names] for split, names in BUNDLED.items()}


def _bundled(name: str) -> Photograph:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"), dtype=np.uint8)
    import skimage.data

    if name == "motorcycle":  # the second view of the stereo pair shows the same scene
        return np.asarray(skimage.data.stereo_motorcycle()[0], dtype=np.uint8)
    return np.asarray(getattr(skimage.data, name)(), dtype=np.uint8)


def enlarge(photograph: Photograph, min_side: int) -> Photograph:
    """Enlarge a photograph to a shorter side of `min_side` pixels if it is smaller."""
    if min(photograph.shape[:2]) >= min_side:
        return photograph
    return np.asarray(resize_shorter_side(Image.fromarray(photograph), min_side), dtype=np.uint8)


def torchvision_photographs(
    name: str, root: str, max_samples: int, rng: np.random.Generator
) -> dict[str, list[Photograph]]:
    """Return up to `max_samples` images of `cifar10` or `stl10` for each split.

    Training and validation images come from the training part of the data set, test images from its test
    part.

    Raises:
        BadData: The data set is not in `root` and cannot be downloaded.
    """
    train, test = (part.images for part in read_torchvision(name, root))
    order = rng.permutation(len(train))
    count = len(train) // 5
    chosen = {
        "train": train[order[count:][:max_samples]],
        "validation": train[order[:count][:max_samples]],
        "test": test[rng.permutation(len(test))[:max_samples]],
    }
    return {part: [*np.ascontiguousarray(images.transpose(0, 2, 3, 1))] for part, images in chosen.items()}
