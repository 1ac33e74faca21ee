"""Classification of a folder of images: one subfolder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from saccade.data.images import fit, fit_mask, read_image
from saccade.data.photographs import image_files
from saccade.data.task import Split, Task
from saccade.errors import BadData, BadOption, check_choice, check_positive

#: Names of the folders that hold a split, where the user has split the images.
_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class _Item:
    file: Path
    label: int


def folder(
    path: str,
    size: int = 96,
    held_out: float = 0.2,
    masks: str | None = None,
    on_bad_image: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    seed: int = 0,
) -> Task:
    """The images below PATH/CLASS, or PATH/train/CLASS and PATH/test/CLASS where these exist.

    Every image is resized and cropped at its centre to `size` x `size`. PATH/val/CLASS is the validation
    split if there is one; else a share `held_out` of the training images of each class, and if there is no
    test folder another one the test split.

    masks           a folder laid out as PATH, whose images are not black where the target is, under the
                    same names with any suffix; an image without one has no target
    on_bad_image    an image that cannot be read ends the loading, or is left out and listed in `skipped`
    limit           at most this many images of each split, drawn at random

    Raises `BadData` if there are fewer than two classes, a class has no image, an image cannot be read,
    the classes of two splits differ, or there is a folder of masks and no mask in it belongs to an image.
    """
    check_positive("folder", size=size, **({} if limit is None else {"limit": limit}))
    check_choice("folder", "on_bad_image", on_bad_image, ("fail", "skip"))
    if not 0 < held_out < 0.5:
        raise BadOption(f"folder: held_out={held_out} must lie between 0 and 0.5")
    root = Path(path)
    if not root.is_dir():
        raise BadData(f"{path!r} is not a folder of images")
    rng = np.random.default_rng(seed)
    classes, items = _items(root, held_out, rng)
    outlines = None if masks is None else _masks(Path(masks), root, items)
    skipped: list[str] = []
    splits = {}
    for part, those in items.items():
        chosen = [those[i] for i in rng.permutation(len(those))[:limit]] if limit else those
        splits[part] = _load(chosen, size, outlines, skipped if on_bad_image == "skip" else None)
    return Task(f"folder:{root.name}", classes, *(splits[part] for part in _PARTS), skipped=tuple(skipped))


def _items(
    root: Path, held_out: float, rng: np.random.Generator
) -> tuple[tuple[str, ...], dict[str, list[_Item]]]:
    """Return the classes, and the images of each split."""
    below = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in _PARTS.items()
    }
    by_user = below["train"] is not None and below["test"] is not None
    train = _classes(below["train"] if by_user and below["train"] else root)
    if len(train) < 2:
        raise BadData(f"{str(root)!r} holds a single class, {next(iter(train))!r}; two are needed")
    items: dict[str, list[_Item]] = {"train": [], "validation": [], "test": []}
    given = {part: folder for part, folder in below.items() if by_user and folder and part != "train"}
    for part, its in given.items():
        found = _classes(its)
        if list(found) != list(train):
            raise BadData(
                f"{str(root)!r}: the classes below train, {list(train)}, and {its.name}, {list(found)}, "
                "differ"
            )
        items[part] = [_Item(file, label) for label, files in enumerate(found.values()) for file in files]
    for label, files in enumerate(train.values()):
        order = [files[i] for i in rng.permutation(len(files))]
        count = max(1, round(held_out * len(files)))
        for part in ("validation", "test"):
            if part in given:
                continue
            items[part] += [_Item(file, label) for file in order[:count]]
            order = order[count:]
        items["train"] += [_Item(file, label) for file in order]
    return tuple(train), items


def _classes(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, by the name of its folder."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        raise BadData(f"{str(root)!r} holds no folder; each class needs one of its own")
    return {entry.name: image_files(entry) for entry in folders}


def _masks(masks: Path, root: Path, items: dict[str, list[_Item]]) -> dict[Path, Path]:
    """Return the mask of each image that has one."""
    by_name = {file.relative_to(masks).with_suffix(""): file for file in image_files(masks)}
    files = [item.file for those in items.values() for item in those]
    found = {file: by_name.get(file.relative_to(root).with_suffix("")) for file in files}
    outlines = {file: mask for file, mask in found.items() if mask is not None}
    if not outlines:
        raise BadData(f"no mask below {str(masks)!r} has the name of an image below {str(root)!r}")
    return outlines


def _load(
    items: Sequence[_Item], size: int, outlines: dict[Path, Path] | None, skipped: list[str] | None
) -> Split:
    """Read images and masks. Those that cannot be read go to `skipped`, if there is such a list."""
    images, labels, masks = [], [], []
    nowhere = np.zeros((size, size), bool)
    for item in items:
        try:
            image = fit(read_image(item.file), size)
            mask = nowhere
            if outlines and item.file in outlines:
                mask = fit_mask(read_image(outlines[item.file]), size)
        except BadData as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        images.append(image)
        labels.append(item.label)
        masks.append(mask)
    stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    return Split(
        torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(labels, dtype=torch.int64),
        torch.from_numpy(np.stack(masks)) if outlines and masks else None,
    )
