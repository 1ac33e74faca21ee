"""The first experiment's task: is there a white square in the photograph?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from saccade.data.images import Photograph, read_image
from saccade.data.photographs import at_least, bundled, downloaded, image_files
from saccade.data.task import Split, Task
from saccade.errors import BadData, BadOption, check_positive

CLASSES = ("without", "with")


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
    """Random crops of photographs, half of them with a square of random size and place painted in.

    The label says whether there is a square, the mask where. Training, validation and test crops come
    from different photographs. The same arguments give the same task, bit for bit.

    source      "photographs", bundled and offline; "cifar10" or "stl10" through torchvision, kept in
                `root`; or the path of a folder of images
    size        side of the crops, in pixels
    patch       smallest and largest side of the square, in pixels
    level       gray level of the square, 0 to 255
    contrast    how far the pixels below are pulled towards `level`: 1 covers them; less is harder
    train, validation, test     numbers of crops

    Raises `BadOption` for values out of range, `BadData` for a source that cannot be used.

    >>> task = load_white_patch(train=8, validation=4, test=4, size=32)
    >>> task.train.images.shape, task.train.labels.sum().item()
    (torch.Size([8, 3, 32, 32]), 4)
    """
    check_positive("white-patch", size=size, train=train, validation=validation, test=test)
    if len(patch) != 2 or not 1 <= patch[0] <= patch[1] <= size:
        raise BadOption(
            f"white-patch: patch={tuple(patch)} must be two sides, 1 <= smallest <= largest <= {size}"
        )
    if not 0 <= level <= 255:
        raise BadOption(f"white-patch: level={level} must lie between 0 and 255")
    if not 0 < contrast <= 1:
        raise BadOption(f"white-patch: contrast={contrast} must lie above 0 and at most at 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadOption(f"white-patch: seed={seed!r} must be an integer of at least 0")
    counts = {"train": train, "validation": validation, "test": test}
    photographs = _photographs(source, size, root, seed, counts)
    splits = {
        name: _crops(photographs[name], count, size, (patch[0], patch[1]), level, contrast, (seed, index))
        for index, (name, count) in enumerate(counts.items())
    }
    return Task("white-patch", CLASSES, *splits.values())


def _photographs(
    source: str, size: int, root: str, seed: int, counts: dict[str, int]
) -> dict[str, list[Photograph]]:
    """Return the photographs of each split, none of them in two."""
    if source == "photographs":
        return bundled()
    rng = np.random.default_rng((seed, len(counts)))
    if source in ("cifar10", "stl10"):
        return downloaded(source, Path(root), max(counts.values()), rng)
    files = image_files(Path(source))
    if len(files) < len(counts):
        raise BadData(f"{source!r} holds {len(files)} images; each of the {len(counts)} splits needs one")
    order = rng.permutation(len(files))
    val_fraction = max(1, len(files) // 5)
    parts = {
        "validation": order[:val_fraction],
        "test": order[val_fraction : 2 * val_fraction],
        "train": order[2 * val_fraction :],
    }
    return {
        name: [read_image(files[i], at_most=4 * size) for i in part[: counts[name]]]
        for name, part in parts.items()
    }


def _crops(
    photographs: Sequence[Photograph],
    count: int,
    size: int,
    patch: tuple[int, int],
    level: int,
    contrast: float,
    seed: tuple[int, int],
) -> Split:
    """Cut `count` crops, every other one with a square, and put them into random order."""
    rng = np.random.default_rng(seed)
    large = [at_least(photograph, size) for photograph in photographs]
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    masks = np.zeros((count, size, size), dtype=bool)
    labels = rng.permutation(np.arange(count) % 2)
    for image, mask, label in zip(images, masks, labels, strict=True):
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
    return Split(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(masks),
    )
