"""Task `digits`: plain, rotated, or on a larger canvas with or without clutter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade.data.checks import check_memory, check_not_negative, check_optional
from saccade.data.folder import load_folder
from saccade.data.task import PARTS, Split, Task
from saccade.data.torchvision_sets import TORCHVISION_SETS, read_torchvision
from saccade.errors import bad_option, check_choice

Variant = Literal["plain", "rotated", "translated", "cluttered"]
GrayImages = NDArray[np.uint8]  # ink on black, (N, H, W) or one image (H, W)
LabeledDigits = tuple[GrayImages, NDArray[np.int64]]

SIDE = 28  # of a digit, in pixels
PIECE = 8  # of clutter
CANVAS = 60


def load_digits(
    variant: Variant = "plain",
    source: str = "scikit-learn",
    size: int | None = None,
    angle: float = 90.0,
    clutter: int = 4,
    max_samples: int | None = None,
    fresh: bool = False,
    root: str = "~/.cache/saccade",
    seed: int = 0,
) -> Task:
    """Generate images of handwritten digits, 28 x 28. Equal arguments give equal images, bit for bit.

    Args:
        variant: "plain"; "rotated", by up to `angle` degrees in both directions; "translated", to a random
            position on a black canvas; or "cluttered", translated with `clutter` patches of 8 x 8 pixels from
            other digits. On a canvas, the mask is the bounding box of the digit.
        source: "scikit-learn", 1,797 digits, bundled, enlarged from 8 x 8; "mnist" or "fashion_mnist" of
            torchvision; or a folder of images (train/CLASS, test/CLASS).
        size: Height and width of the canvas; default: 60, and 28 without a canvas.
        angle: Largest rotation in degrees.
        clutter: Number of patches of clutter.
        max_samples: Maximum number of images per split, drawn at random.
        fresh: Whether the training images are transformed anew in each epoch, as in the paper, by a function
            of `seed` and the epoch. The validation and test images stay the same.
        root: Folder of the data sets of torchvision.
        seed: Seed of the splits and of all random transformations.

    Raises:
        BadOption: A value is out of range.
        BadData: The source cannot be used.

    References:
        Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (translated and
        cluttered digits).

    Example:
        >>> task = load_digits("cluttered", max_samples=5)
        >>> task.train.images.shape, task.train.masks.shape
        (torch.Size([5, 3, 60, 60]), torch.Size([5, 60, 60]))
    """
    check_choice("digits", "variant", variant, get_args(Variant))
    on_canvas = variant in ("translated", "cluttered")
    size = size if size is not None else CANVAS if on_canvas else SIDE
    check_optional("digits", size=size, max_samples=max_samples)
    check_not_negative("digits", clutter=clutter, seed=seed)
    if (size < SIDE) if on_canvas else (size != SIDE):
        expected = f"at least {SIDE}, the side of a digit" if on_canvas else f"{SIDE} without a canvas"
        raise bad_option("digits", f"must be {expected}", size=size)
    if not 0 <= angle <= 180:
        raise bad_option("digits", "must be between 0 and 180 degrees", angle=angle)
    if fresh and variant == "plain":
        raise bad_option("digits", "needs a variant that is drawn at random, not 'plain'", fresh=fresh)
    draw = partial(_draw, variant, size, angle, clutter)
    splits = []
    for index, (images, labels) in enumerate(read_digits(source, root, seed).values()):
        rng = np.random.default_rng((seed, index))
        indices = rng.permutation(len(labels))[:max_samples] if max_samples else np.arange(len(labels))
        check_memory("digits", size, len(indices))
        images, labels = images[indices], labels[indices]
        drawn, masks = draw(images, rng)
        split = gray_split(drawn, labels, masks)
        if fresh and index == 0:
            split = replace(split, redraw=partial(_draw_epoch, draw, images, seed))
        splits.append(split)
    return Task(f"digits-{variant}", tuple(map(str, range(10))), *splits)


def _draw(
    variant: Variant, size: int, angle: float, clutter: int, images: GrayImages, rng: np.random.Generator
) -> tuple[GrayImages, NDArray[np.bool_] | None]:
    """Return a variant of images at random, and the masks of those on a canvas."""
    match variant:
        case "plain":
            return images, None
        case "rotated":
            return _rotate(images, angle, rng), None
        case "translated" | "cluttered":
            return _place_on_canvas(images, size, clutter if variant == "cluttered" else 0, rng)


def _draw_epoch(
    draw: Callable[[GrayImages, np.random.Generator], tuple[GrayImages, NDArray[np.bool_] | None]],
    images: GrayImages,
    seed: int,
    epoch: int,
) -> Tensor:
    return _in_colors(draw(images, np.random.default_rng((seed, 4, epoch)))[0])


def gray_split(images: GrayImages, labels: NDArray[np.int64], masks: NDArray[np.bool_] | None) -> Split:
    """Return a split of gray images (N, H, W) or clips (N, T, H, W)."""
    in_masks = None if masks is None else torch.from_numpy(masks)
    return Split(_in_colors(images), torch.from_numpy(labels), in_masks)


def _in_colors(images: GrayImages) -> Tensor:
    return torch.from_numpy(images).unsqueeze(1).repeat_interleave(3, dim=1)


def read_digits(source: str, root: str, seed: int) -> dict[str, LabeledDigits]:
    """Return the digits of each split: "train", "validation" and "test"."""
    rng = np.random.default_rng((seed, 3))
    if source == "scikit-learn":
        from sklearn import datasets

        bundled = datasets.load_digits()
        small = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
        images = np.stack([resize(image, SIDE, Image.Resampling.BICUBIC) for image in small])
        labels = bundled.target.astype(np.int64)
        bounds = (len(labels) * 6 // 10, len(labels) * 7 // 10)
        orders = np.split(rng.permutation(len(labels)), bounds)
        splits = [(images[indices], labels[indices]) for indices in orders]
    elif source in TORCHVISION_SETS:
        if source not in ("mnist", "fashion_mnist"):
            raise bad_option("digits", f"has no gray images of {SIDE} x {SIDE}", source=source)
        train, test = read_torchvision(source, root)
        order, count = rng.permutation(len(train.labels)), len(train.labels) // 10
        parts = ((train, order[count:]), (train, order[:count]), (test, np.arange(len(test.labels))))
        splits = [(part.images[indices, 0], part.labels[indices]) for part, indices in parts]
    else:
        task = load_folder(source, size=SIDE, val_fraction=0.1, seed=seed)
        if len(task.classes) != 10:
            raise bad_option("digits", f"has {len(task.classes)} classes; ten were expected", source=source)
        in_folder = (task.train, task.validation, task.test)
        splits = [(split.images[:, 0].numpy(), split.labels.numpy()) for split in in_folder]
    return dict(zip(PARTS, splits, strict=True))


def resize(image: GrayImages, side: int, filter: Image.Resampling = Image.Resampling.BILINEAR) -> GrayImages:
    """Resize an image to a square."""
    return np.asarray(Image.fromarray(image).resize((side, side), filter))


def ink_boxes(images: GrayImages) -> NDArray[np.bool_]:
    """Return the masks of the bounding boxes of the ink in images (..., H, W); empty without ink."""
    rows, columns = (_fill(np.asarray(images.any(axis))) for axis in (-1, -2))
    return rows[..., :, None] & columns[..., None, :]


def _fill(lines: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return lines (..., L) with the gaps between true values filled."""
    before = np.maximum.accumulate(lines, axis=-1)
    after = np.maximum.accumulate(lines[..., ::-1], axis=-1)[..., ::-1]
    return before & after


def _rotate(images: GrayImages, angle: float, rng: np.random.Generator) -> GrayImages:
    angles = rng.uniform(-angle, angle, len(images))
    rotated = np.empty_like(images)
    for image, result, degrees in zip(images, rotated, angles, strict=True):
        result[:] = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
    return rotated


def _place_on_canvas(
    images: GrayImages, size: int, clutter: int, rng: np.random.Generator
) -> tuple[GrayImages, NDArray[np.bool_]]:
    """Return each image at a random position on a canvas with clutter, and the masks."""
    canvases = np.zeros((len(images), size, size), np.uint8)
    masks = np.zeros(canvases.shape, bool)
    every = np.arange(len(images))
    in_images, on_canvas = SIDE - PIECE + 1, size - PIECE + 1
    bounds = [size - SIDE + 1] * 2 + clutter * [len(images), in_images, in_images, on_canvas, on_canvas]
    top, left, *pieces = rng.integers(np.broadcast_to(bounds, (len(images), len(bounds)))).T
    _windows(canvases, SIDE)[every, top, left] = images
    _windows(masks, SIDE)[every, top, left] = ink_boxes(images)
    sources, targets = _windows(images, PIECE), _windows(canvases, PIECE)
    for other, y, x, to_y, to_x in zip(*(pieces[column::5] for column in range(5)), strict=True):
        target = every, to_y, to_x
        targets[target] = np.maximum(targets[target], sources[other, y, x])
    return canvases, masks


def _windows(images: NDArray[Any], side: int) -> NDArray[Any]:
    """Return a view of all windows of images: (N, H, W) -> (N, top, left, side, side)."""
    return sliding_window_view(images, (side, side), axis=(1, 2), writeable=True)
