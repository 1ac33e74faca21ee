"""Photographs for the white-patch task: bundled with scikit-image and scikit-learn, or of torchvision."""

from __future__ import annotations

import numpy as np
from PIL import Image

from saccade.data.images import Photograph, resize_shorter_side
from saccade.data.torchvision_sets import read_torchvision

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
