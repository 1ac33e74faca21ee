"""Classification of a folder of images: one subfolder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.data.cache import cached, key_of
from saccade.data.decode import OnBadImage, Sample, check_reading, cores, decoded, in_memory
from saccade.data.images import fit, fit_mask, read_image
from saccade.data.photographs import image_files
from saccade.data.task import Split, Task
from saccade.errors import BadData

#: Names of the folders that hold a split, where the user has split the images.
_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


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
    """The images below PATH/CLASS, or PATH/train/CLASS and PATH/test/CLASS where these exist.

    Every image is resized and cropped at its center to `size` x `size`. PATH/val/CLASS is the validation
    split if there is one; else a share `val_fraction` of the training images of each class, and if there is
    no test folder another one the test split.

    masks           a folder laid out as PATH, whose images are not black where the target is, under the
                    same names with any suffix; an image without one has no target
    on_bad_image    an image that cannot be read ends the loading, or is left out and listed in `skipped`
    max_samples           at most this many images of each split, drawn at random
    cache           a folder in which the images are kept as they are trained with: decoded once, and read
                    when they are needed, so that there may be more of them than the memory holds. Its files
                    are named for what determines them, and tasks, runs and processes can share it
    workers         threads that decode, by default as many as there are processors for this process

    Raises `BadData` if there are fewer than two classes, a class has no image, an image cannot be read,
    the classes of two splits differ, there is a folder of masks and no mask in it belongs to an image, or the
    cache cannot be written.
    """
    check_reading(
        "folder",
        size=size,
        val_fraction=val_fraction,
        max_samples=max_samples,
        on_bad_image=on_bad_image,
        workers=workers,
    )
    root = Path(path)
    if not root.is_dir():
        raise BadData(f"{path!r} is not a folder of images")
    rng = np.random.default_rng(seed)
    classes, items = _items(root, val_fraction, rng)
    outlines = None if masks is None else _masks(Path(masks), root, items)
    skipped: list[str] = []
    splits = {}
    for part, those in items.items():
        chosen = [those[i] for i in rng.permutation(len(those))[:max_samples]] if max_samples else those
        reader = _Reader(chosen, size, outlines, workers or cores(), on_bad_image)
        if cache is None:
            splits[part] = in_memory(reader.samples(skipped), len(chosen), size)
        else:
            key = f"{root.resolve().name}-{part}"
            splits[part] = reader.cached(Path(cache).expanduser(), key, skipped)
    return Task(f"folder:{root.name}", classes, *(splits[part] for part in _PARTS), skipped=tuple(skipped))


def _items(
    root: Path, val_fraction: float, rng: np.random.Generator
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
        count = max(1, round(val_fraction * len(files)))
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


@dataclass(frozen=True)
class _Reader:
    """Reads the images and masks of a split."""

    items: Sequence[_Item]
    size: int
    outlines: dict[Path, Path] | None
    workers: int
    on_bad_image: OnBadImage

    def samples(self, skipped: list[str]) -> Iterator[Sample]:
        return decoded(self.read, self.items, self.workers, self.on_bad_image, skipped)

    def cached(self, cache: Path, name: str, skipped: list[str]) -> Split:
        outlines = self.outlines or {}
        determined = ((item.file, outlines.get(item.file), item.label) for item in self.items)
        key = key_of(name, self.size, determined)
        return cached(cache, key, self.size, self.samples, self.on_bad_image, skipped)

    def read(self, item: _Item) -> Sample:
        image = fit(read_image(item.file), self.size)
        if self.outlines is None:
            return Sample(image, item.label)
        outline = self.outlines.get(item.file)
        nowhere = np.zeros((self.size, self.size), bool)
        mask = nowhere if outline is None else fit_mask(read_image(outline), self.size)
        return Sample(image, item.label, mask)
