"""Photographs for the tasks: those bundled with scikit-image and scikit-learn, or anyone's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images import Photograph, resize
from saccade.data.standard import read_standard
from saccade.errors import BadData

#: Which photograph serves which split; no photograph serves two. Those with blown-out white areas, which
#: look most like a white square, are there to learn from.
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

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def bundled() -> dict[str, list[Photograph]]:
    """Return the bundled photographs of each split, without a download."""
    return {split: [_bundled(name) for name in names] for split, names in BUNDLED.items()}


def _bundled(name: str) -> Photograph:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"), dtype=np.uint8)
    import skimage.data

    if name == "motorcycle":  # its right-hand view shows the same scene, so it is left out
        return np.asarray(skimage.data.stereo_motorcycle()[0], dtype=np.uint8)
    return np.asarray(getattr(skimage.data, name)(), dtype=np.uint8)


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted by path.

    Raises `BadData` if the folder is missing, unreadable or holds no image.
    """
    if not folder.is_dir():
        raise BadData(f"{str(folder)!r} is not a folder of images")
    try:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise BadData(f"{str(folder)!r} cannot be read: {error.strerror}") from error
    if not files:
        raise BadData(f"{str(folder)!r} holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def at_least(photograph: Photograph, side: int) -> Photograph:
    """Return the photograph, enlarged if need be so that its shorter side measures `side` pixels."""
    if min(photograph.shape[:2]) >= side:
        return photograph
    return np.asarray(resize(Image.fromarray(photograph), side), dtype=np.uint8)


def downloaded(
    name: str, root: Path, max_samples: int, rng: np.random.Generator
) -> dict[str, list[Photograph]]:
    """Return up to `max_samples` images of torchvision's `cifar10` or `stl10` for each split.

    Training and validation images come from the data set's training part, test images from its test
    part. Raises `BadData` if the data set is not below `root` and cannot be downloaded either.
    """
    train, test = (read_standard(name, str(root), train=part, download=True)[0] for part in (True, False))
    order = rng.permutation(len(train))
    val_fraction = len(train) // 5
    return {
        "train": _take(train, order[val_fraction:][:max_samples]),
        "validation": _take(train, order[:val_fraction][:max_samples]),
        "test": _take(test, rng.permutation(len(test))[:max_samples]),
    }


def _take(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> list[Photograph]:
    return [np.ascontiguousarray(images[index].transpose(1, 2, 0)) for index in indices]
