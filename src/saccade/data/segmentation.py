"""Task `segmentation`: a folder of images with a mask of the same name for each, which holds the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from saccade.data.checks import OnBadImage, ReadingOptions, check_memory
from saccade.data.decoding import available_cpus, decode_samples
from saccade.data.images import (
    Photograph,
    convert_image_errors,
    image_files,
    open_image,
    read_image,
    resize_and_crop,
)
from saccade.data.parts import part_folders
from saccade.data.task import IGNORED, PARTS, Split, Task
from saccade.errors import BadData, bad_option

_Item = tuple[Path, Path]  # an image and its mask
_Mask = NDArray[np.uint8]


class _Pair(NamedTuple):
    image: Photograph
    mask: _Mask  # (H, W)


def load_segmentation(
    path: str,
    size: int = 128,
    tiles: bool = False,
    classes: list[str] | None = None,
    ignore: int = 255,
    val_fraction: float = 0.2,
    on_bad_image: OnBadImage = "fail",
    max_samples: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Task:
    """Load PATH/images/NAME and PATH/masks/NAME, or both in each of PATH/train, PATH/val and PATH/test.

    The pixels of a mask are numbers of classes: gray levels, or the indices of a palette. Masks have the
    names of their images with any lossless suffix. Masks of 0 and 255 alone have two classes. The first class
    is the background: attention maps are compared with all others.

    Without a test folder, the images in val are the test split. Splits that are still missing are drawn at
    random from the training images, the fraction `val_fraction` for each.

    Args:
        path: Folder of images and masks.
        size: Height and width of the images in pixels.
        tiles: Whether images are cut into tiles of `size` pixels instead of resized and center-cropped. Tiles
            that exceed the image are filled with black, which has no class.
        classes: Names of the classes, by number; default: "background" and "foreground", or "class 0",
            "class 1", ... for more than two.
        ignore: Number that marks pixels without a class, which are neither trained nor counted.
        val_fraction: Fraction of the training images that is held out.
        on_bad_image: "fail" raises an error for an unreadable image; "skip" leaves it out and lists it in
            `skipped`.
        max_samples: Maximum number of images per split, drawn at random.
        seed: Seed of the random split.
        workers: Number of threads that decode images; default: one per CPU available to this process.

    Raises:
        BadOption: A value is out of range.
        BadData: A folder is missing, an image has no mask or one of another size, a mask holds colors or a
            number without a class, an image cannot be read, or there are too few images.
    """
    options = ReadingOptions("segmentation", size, val_fraction, max_samples, seed, on_bad_image, workers)
    if not 0 <= ignore <= 255:
        raise bad_option("segmentation", "must be an integer from 0 to 255", ignore=ignore)
    if classes is not None and not 2 <= len(classes) <= IGNORED:
        raise bad_option("segmentation", f"must name 2 to {IGNORED} classes", classes=classes)
    root = Path(path).expanduser()
    if not root.is_dir():
        problem = f"{path!r} is not a folder with images and masks"
        raise BadData(problem, owner="segmentation", option="path", value=path)
    rng = np.random.default_rng(seed)
    items, notes = _find_items(root, val_fraction, rng)
    skipped: list[str] = []
    read: dict[str, list[_Pair]] = {}
    for part in PARTS:
        chosen = items[part]
        if max_samples:
            chosen = [chosen[i] for i in rng.permutation(len(chosen))[:max_samples]]
        threads = options.workers or available_cpus()
        read[part] = [*decode_samples(_read, chosen, threads, options.on_bad_image, skipped)]
    masks = [pair.mask for pairs in read.values() for pair in pairs]
    names, note = _number_classes(root, masks, classes, ignore)
    cut = partial(_tiles, size=size) if tiles else partial(_square, size=size)
    splits = [_stack(cut, read[part], size) for part in PARTS]
    notes = (*notes, note) if note else notes
    return Task(f"segmentation:{root.name}", names, *splits, skipped=tuple(skipped), notes=notes)


def _find_items(
    root: Path, val_fraction: float, rng: np.random.Generator
) -> tuple[dict[str, list[_Item]], tuple[str, ...]]:
    """Return the images of each split with their masks, and notes on how the splits were chosen."""
    folders, notes = part_folders(root)
    items = {part: _pairs(folder) for part, folder in ({"train": root} | folders).items()}
    train = items["train"]
    order = [train[i] for i in rng.permutation(len(train))]
    count = max(1, round(val_fraction * len(train)))
    for part in ("validation", "test"):
        if part not in items:
            items[part], order = order[:count], order[count:]
    return items | {"train": sorted(order)}, notes


def _pairs(folder: Path) -> list[_Item]:
    """Return the images of a folder, each with its mask."""
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise BadData.of(str(folder), f"contains no folder {name!r}", folder=name)
    masks = {
        file.relative_to(folder / "masks").with_suffix(""): file for file in image_files(folder / "masks")
    }
    pairs = []
    for image in image_files(folder / "images"):
        mask = masks.get(image.relative_to(folder / "images").with_suffix(""))
        if mask is None:
            problem = f"no mask in {str(folder / 'masks')!r} has the name of the image {image.name!r}"
            raise BadData.of("segmentation", problem, masks=image.name)
        pairs.append((image, mask))
    return pairs


def _read(item: _Item) -> _Pair:
    image, mask = read_image(item[0]), _read_mask(item[1])
    if mask.shape != image.shape[:2]:
        sizes = "the mask has {1} x {0} pixels, its image {3} x {2}".format(*mask.shape, *image.shape)
        raise BadData.of(str(item[1]), sizes, size=mask.shape)
    return _Pair(image, mask)


def _read_mask(path: Path) -> _Mask:
    """Read the numbers in a mask: gray levels, or the indices of a palette."""
    with convert_image_errors(repr(str(path))), open_image(path) as opened:
        kind, pixels = opened.format, np.asarray(opened)
    if kind == "JPEG":
        raise BadData.of(
            str(path), "is a JPEG file, which changes the numbers of classes; use PNG", masks=kind
        )
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            problem = "holds colors; numbers of classes were expected, as gray levels or indices of a palette"
            raise BadData.of(str(path), problem, mode="RGB")
        pixels = pixels[..., 0]
    if pixels.min() < 0 or pixels.max() > 255:
        problem = f"holds numbers from {pixels.min()} to {pixels.max()}; 0 to 255 were expected"
        raise BadData.of(str(path), problem, value=int(pixels.max()))
    return pixels.astype(np.uint8)


def _number_classes(
    root: Path, masks: Sequence[_Mask], classes: list[str] | None, ignore: int
) -> tuple[tuple[str, ...], str]:
    """Number the classes of masks from 0, in place, with `IGNORED` for none; return the names and a note."""
    values = {int(value) for mask in masks for value in np.unique(mask)}
    note = ""
    if values == {0, 255} and ignore == 255 and (classes is None or len(classes) == 2):
        for mask in masks:
            mask[mask == 255] = 1
        note, values = f"the masks of {str(root)!r} hold 0 and 255: 255 is taken for a class", {0, 1}
    known = values - {ignore}
    if not known:
        raise BadData.of(str(root), f"every pixel of the masks is {ignore}, which is ignored", ignore=ignore)
    if ignore != IGNORED:
        if IGNORED in known:
            raise BadData.of(str(root), f"the masks hold {IGNORED}, which is no class", value=IGNORED)
        for mask in masks:
            mask[mask == ignore] = IGNORED
    if classes is None:
        count = max(known) + 1
        names = ["background", "foreground"] if count <= 2 else [f"class {number}" for number in range(count)]
        return tuple(names), note
    if max(known) >= len(classes):
        problem = f"the masks hold {max(known)}; 0 to {len(classes) - 1} were expected for {classes}"
        raise BadData.of(str(root), problem, value=max(known))
    return tuple(classes), note


def _square(pair: _Pair, size: int) -> Iterator[_Pair]:
    """Yield the center of an image and its mask, resized to a square."""
    mask = ImageOps.fit(Image.fromarray(pair.mask), (size, size), Image.Resampling.NEAREST)
    yield _Pair(resize_and_crop(pair.image, size), np.asarray(mask))


def _tiles(pair: _Pair, size: int) -> Iterator[_Pair]:
    """Yield the tiles of an image and its mask, row by row."""
    height, width = pair.mask.shape
    rows, columns = -height % size, -width % size
    image = np.pad(pair.image, ((0, rows), (0, columns), (0, 0)))
    mask = np.pad(pair.mask, ((0, rows), (0, columns)), constant_values=IGNORED)
    for top in range(0, height, size):
        for left in range(0, width, size):
            part = slice(top, top + size), slice(left, left + size)
            yield _Pair(image[part], mask[part])


def _stack(cut: partial[Iterator[_Pair]], pairs: list[_Pair], size: int) -> Split:
    """Return the squares that are cut from images as a split. The masks are all classes but the first."""
    parts = [part for pair in pairs for part in cut(pair)]
    check_memory("segmentation", size, len(parts))
    images = np.zeros((len(parts), 3, size, size), np.uint8)
    labels = np.zeros((len(parts), size, size), np.uint8)
    for number, (image, mask) in enumerate(parts):
        images[number], labels[number] = image.transpose(2, 0, 1), mask
    classes = torch.from_numpy(labels)
    return Split(torch.from_numpy(images), classes, (classes != 0) & (classes != IGNORED))
