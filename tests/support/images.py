"""Small folders of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, classes: Iterable[str], count: int = 12) -> Path:
    """Write random images to root/CLASS/NUMBER.png, and return root. A class may be PART/CLASS."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
