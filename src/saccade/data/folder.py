"""Classification of a folder of images: one subfolder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from saccade.data.images import fit, read_image
from saccade.data.photographs import image_files
from saccade.data.task import Split, Task
from saccade.errors import BadData, BadOption, check_positive


def folder(path: str, size: int = 96, held_out: float = 0.2, seed: int = 0) -> Task:
    """The images below PATH/CLASS, or PATH/train/CLASS and PATH/test/CLASS where these exist.

    Every image is resized and cropped at its centre to `size` x `size`. A share `held_out` of each class
    becomes the validation split and, if there is no test folder, another one the test split.

    Raises `BadData` if there are fewer than two classes, a class has no image, an image cannot be read,
    or the classes below train and test differ.
    """
    check_positive("folder", size=size)
    if not 0 < held_out < 0.5:
        raise BadOption(f"folder: held_out={held_out} must lie between 0 and 0.5")
    root = Path(path)
    if not root.is_dir():
        raise BadData(f"{path!r} is not a folder of images")
    rng = np.random.default_rng(seed)
    split_by_user = (root / "train").is_dir() and (root / "test").is_dir()
    train = _classes(root / "train" if split_by_user else root)
    if len(train) < 2:
        raise BadData(f"{path!r} holds a single class, {next(iter(train))!r}; two are needed")
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "validation": [], "test": []}
    for label, files in enumerate(train.values()):
        order = [files[i] for i in rng.permutation(len(files))]
        count = max(1, round(held_out * len(files)))
        for part in ("validation",) if split_by_user else ("validation", "test"):
            parts[part] += [(file, label) for file in order[:count]]
            order = order[count:]
        parts["train"] += [(file, label) for file in order]
    if split_by_user:
        test = _classes(root / "test")
        if list(test) != list(train):
            raise BadData(f"{path!r}: the classes below train, {list(train)}, and test, {list(test)}, differ")
        parts["test"] = [(file, label) for label, files in enumerate(test.values()) for file in files]
    splits = {name: _load(files, size) for name, files in parts.items()}
    return Task(f"folder:{root.name}", tuple(train), **splits)


def _classes(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, by the name of its folder."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        raise BadData(f"{str(root)!r} holds no folder; each class needs one of its own")
    return {entry.name: image_files(entry) for entry in folders}


def _load(files: list[tuple[Path, int]], size: int) -> Split:
    images = [fit(read_image(file), size) for file, _ in files]
    stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    return Split(
        torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([label for _, label in files]),
    )
