"""Task `folder`: classification of a folder of images with one subfolder per class."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saccade.data.checks import OnBadImage, ReadingOptions
from saccade.data.decoding import Sample, load_split
from saccade.data.images import image_files, read_image, resize_and_crop, resize_and_crop_mask
from saccade.data.parts import part_folders
from saccade.data.task import PARTS, Task
from saccade.errors import BadData


class _Item(NamedTuple):
    file: Path
    mask: Path | None
    label: int


_Items = dict[str, list[_Item]]  # of each split


def load_folder(
    path: str,
    size: int = 96,
    val_fraction: float = 0.2,
    masks: str | None = None,
    on_bad_image: OnBadImage = "fail",
    max_samples: int | None = None,
    seed: int = 0,
    cache: str | None = None,
    workers: int | None = None,
) -> Task:
    """Load the images in PATH/CLASS, or in PATH/train/CLASS, PATH/val/CLASS and PATH/test/CLASS.

    Every image is resized and center-cropped to `size` x `size`. If there is a folder of a part, "train",
    "val" or "test", the subfolders of PATH are never taken for classes. Without a test folder, the images in
    val are the test split. Splits that are still missing are drawn at random from the training images of
    each class, the fraction `val_fraction` for each.

    Args:
        path: Folder of images.
        size: Height and width of the images in pixels.
        val_fraction: Fraction of the training images of each class that is held out.
        masks: Folder with the layout of PATH and images that are not black on the target. Masks have the
            names of the images with any suffix. An image without a mask has no target.
        on_bad_image: "fail" raises an error for an unreadable image; "skip" leaves it out and lists it in
            `skipped`.
        max_samples: Maximum number of images per split, drawn at random.
        seed: Seed of the random split.
        cache: Folder of decoded images. Images are decoded once and mapped into memory, so that the data set
            may exceed memory. File names identify the content; tasks, runs and processes can share it.
        workers: Number of threads that decode images; default: one per CPU available to this process.

    Raises:
        BadOption: A value is out of range.
        BadData: There are fewer than two classes, a class has no image, an image cannot be read, the classes
            of two splits differ, no mask belongs to an image, or the cache cannot be written.
    """
    options = ReadingOptions("folder", size, val_fraction, max_samples, seed, on_bad_image, workers, cache)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise BadData(f"{path!r} is not a folder of images", owner="folder", option="path", value=path)
    rng = np.random.default_rng(seed)
    classes, items, notes = _find_items(root, val_fraction, rng)
    if masks is not None:
        _add_masks(items, root, Path(masks).expanduser())
    read = partial(_read, size, masks is not None)
    skipped: list[str] = []
    splits = []
    for part in PARTS:
        chosen = items[part]
        if max_samples:
            chosen = [chosen[i] for i in rng.permutation(len(chosen))[:max_samples]]
        name = f"{root.resolve().name}-{part}"
        splits.append(load_split(name, size, read, chosen, chosen, options, skipped))
    return Task(f"folder:{root.name}", classes, *splits, skipped=tuple(skipped), notes=notes)


def _find_items(
    root: Path, val_fraction: float, rng: np.random.Generator
) -> tuple[tuple[str, ...], _Items, tuple[str, ...]]:
    """Return the classes, the images of each split, and notes on how the splits were chosen."""
    folders, notes = part_folders(root)
    folders = {"train": root} | folders
    by_part = {part: _files_by_class(folder) for part, folder in folders.items()}
    train = by_part.pop("train")
    if len(train) < 2:
        (only,) = train
        raise BadData.of(str(root), f"contains a single class, {only!r}; two are required", classes=only)
    items: _Items = {part: [] for part in PARTS}
    for part, by_class in by_part.items():
        if [*by_class] != [*train]:
            differing = f"{folders['train'].name}, {[*train]}, and in {folders[part].name}, {[*by_class]}"
            raise BadData.of(str(root), f"the classes in {differing}, differ", train, classes=[*by_class])
        items[part] = [
            _Item(file, None, label) for label, files in enumerate(by_class.values()) for file in files
        ]
    for label, files in enumerate(train.values()):
        order = [_Item(files[i], None, label) for i in rng.permutation(len(files))]
        count = max(1, round(val_fraction * len(files)))
        for part in ("validation", "test"):
            if part not in by_part:
                items[part] += order[:count]
                order = order[count:]
        items["train"] += order
    return tuple(train), items, notes


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        raise BadData.of(str(root), "contains no subfolder; one per class is required", classes=None)
    return {entry.name: image_files(entry) for entry in folders}


def _add_masks(items: _Items, root: Path, masks: Path) -> None:
    """Set the mask file of each image that has one."""
    by_name = {file.relative_to(masks).with_suffix(""): file for file in image_files(masks)}
    for of_part in items.values():
        for index, item in enumerate(of_part):
            of_part[index] = item._replace(mask=by_name.get(item.file.relative_to(root).with_suffix("")))
    if not any(item.mask for of_part in items.values() for item in of_part):
        problem = f"no mask in {str(masks)!r} has the name of an image in {str(root)!r}"
        raise BadData.of("folder", problem, masks=str(masks))


def _read(size: int, has_masks: bool, item: _Item) -> Sample:
    image = resize_and_crop(read_image(item.file), size)
    if not has_masks:
        return Sample(image, item.label)
    if item.mask is None:
        return Sample(image, item.label, np.zeros((size, size), bool))
    return Sample(image, item.label, resize_and_crop_mask(read_image(item.mask), size))
