"""A small data set for segmentation: bright discs on a dark ground, with their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def disc(number: int, side: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image with a disc, (S, S, 3), and its mask of 0 and 1, (S, S)."""
    rng = np.random.default_rng(number)
    row, column = rng.integers(side // 4, 3 * side // 4, 2)
    rows, columns = np.mgrid[:side, :side]
    mask = ((rows - row) ** 2 + (columns - column) ** 2 < (side // 4) ** 2).astype(np.uint8)
    image = 60 + 120 * mask[..., None] + rng.integers(0, 40, (side, side, 3))
    return image.astype(np.uint8), mask


def write_pair(folder: Path, name: str, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def write_discs(root: Path, count: int = 10, side: int = 32) -> Path:
    """Write PATH/images and PATH/masks."""
    for number in range(count):
        write_pair(root, f"{number:02}", *disc(number, side))
    return root
