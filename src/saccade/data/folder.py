"""Task `folder`: classification of a folder of images with one subfolder per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.data.cache import cache_key, load_cached
from saccade.data.checks import OnBadImage, ReadingOptions, check_memory
from saccade.data.decoding import Sample, available_cpus, decode_samples, stack_samples
from saccade.data.images import image_files, read_image, resize_and_crop, resize_and_crop_mask
from saccade.data.task import Split, Task
from saccade.errors import BadData

#: Names of the folders of each split, if the user has split the images.
_PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class _Item:
    file: Path
    label: int


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
    options = ReadingOptions("folder", size, val_fraction, max_samples, seed, on_bad_image, workers)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise BadData(f"{path!r} is not a folder of images", owner="folder", option="path", value=path)
    rng = np.random.default_rng(seed)
    classes, items, notes = _find_items(root, val_fraction, rng)
    mask_files = None if masks is None else _find_masks(Path(masks).expanduser(), root, items)
    skipped: list[str] = []
    splits = {}
    for part, of_part in items.items():
        if max_samples:
            of_part = [of_part[i] for i in rng.permutation(len(of_part))[:max_samples]]
        check_memory("folder", size, len(of_part) if cache is None else 1)
        reader = _Reader(of_part, size, mask_files, options)
        if cache is None:
            splits[part] = stack_samples(reader.samples(skipped), len(of_part), size)
        else:
            name = f"{root.resolve().name}-{part}"
            splits[part] = reader.load_cached(Path(cache).expanduser(), name, skipped)
    parts = (splits[part] for part in _PARTS)
    return Task(f"folder:{root.name}", classes, *parts, skipped=tuple(skipped), notes=notes)


def _find_items(
    root: Path, val_fraction: float, rng: np.random.Generator
) -> tuple[tuple[str, ...], dict[str, list[_Item]], tuple[str, ...]]:
    """Return the classes, the images of each split, and notes on how the splits were chosen."""
    folders = _part_folders(root)
    notes = []
    if "test" not in folders and "validation" in folders:
        folders["test"] = folders.pop("validation")
        notes.append(f"{str(root)!r} has no folder test: {folders['test'].name} is the test split")
    train = _files_by_class(folders.get("train", root))
    if len(train) < 2:
        only = next(iter(train))
        message = f"{str(root)!r} contains a single class, {only!r}; two are required"
        raise BadData(message, owner=str(root), option="classes", value=only)
    items: dict[str, list[_Item]] = {"train": [], "validation": [], "test": []}
    fixed = {part: folder for part, folder in folders.items() if part != "train"}
    for part, folder in fixed.items():
        by_class = _files_by_class(folder)
        if list(by_class) != list(train):
            message = (
                f"{str(root)!r}: the classes in {folders['train'].name}, {list(train)}, "
                f"and in {folder.name}, {list(by_class)}, differ"
            )
            raise BadData(message, owner=str(root), option="classes", value=list(by_class), choices=train)
        items[part] = [_Item(file, label) for label, files in enumerate(by_class.values()) for file in files]
    for label, files in enumerate(train.values()):
        order = [files[i] for i in rng.permutation(len(files))]
        count = max(1, round(val_fraction * len(files)))
        for part in ("validation", "test"):
            if part in fixed:
                continue
            items[part] += [_Item(file, label) for file in order[:count]]
            order = order[count:]
        items["train"] += [_Item(file, label) for file in order]
    return tuple(train), items, tuple(notes)


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each part that the user has split; empty if the subfolders are classes.

    Raises:
        BadData: There is a folder of a part, but none for training.
    """
    entries = sorted(entry for entry in root.iterdir() if entry.is_dir())
    folders = {
        part: entry
        for part, names in _PARTS.items()
        for entry in reversed(entries)
        if entry.name.lower() in names
    }
    if folders and "train" not in folders:
        part = next(iter(folders.values())).name
        message = f"{str(root)!r} has a folder {part!r}, which names a part, but no folder 'train'"
        raise BadData(message, owner=str(root), option="classes", value=part)
    return folders


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        message = f"{str(root)!r} contains no subfolder; one subfolder per class is required"
        raise BadData(message, owner=str(root), option="classes")
    return {entry.name: image_files(entry) for entry in folders}


def _find_masks(masks: Path, root: Path, items: dict[str, list[_Item]]) -> dict[Path, Path]:
    """Return the mask file of each image that has one."""
    by_name = {file.relative_to(masks).with_suffix(""): file for file in image_files(masks)}
    files = [item.file for of_part in items.values() for item in of_part]
    candidates = {file: by_name.get(file.relative_to(root).with_suffix("")) for file in files}
    mask_files = {file: mask for file, mask in candidates.items() if mask is not None}
    if not mask_files:
        message = f"no mask in {str(masks)!r} has the name of an image in {str(root)!r}"
        raise BadData(message, owner="folder", option="masks", value=str(masks))
    return mask_files


@dataclass(frozen=True)
class _Reader:
    """Reads the images and masks of a split."""

    items: Sequence[_Item]
    size: int
    mask_files: dict[Path, Path] | None
    options: ReadingOptions

    def samples(self, skipped: list[str]) -> Iterator[Sample]:
        workers = self.options.workers or available_cpus()
        return decode_samples(self.read, self.items, workers, self.options.on_bad_image, skipped)

    def load_cached(self, cache: Path, name: str, skipped: list[str]) -> Split:
        mask_files = self.mask_files or {}
        content = ((item.file, mask_files.get(item.file), item.label) for item in self.items)
        key = cache_key(name, self.size, content)
        return load_cached(cache, key, self.size, self.samples, self.options.on_bad_image, skipped)

    def read(self, item: _Item) -> Sample:
        image = resize_and_crop(read_image(item.file), self.size)
        if self.mask_files is None:
            return Sample(image, item.label)
        file = self.mask_files.get(item.file)
        empty = np.zeros((self.size, self.size), bool)
        mask = empty if file is None else resize_and_crop_mask(read_image(file), self.size)
        return Sample(image, item.label, mask)
