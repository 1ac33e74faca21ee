"""Digits: plain, rotated, or somewhere on a larger canvas with or without clutter."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from saccade.data.folder import load_folder
from saccade.data.standard import SETS, read_standard
from saccade.data.task import Split, Task
from saccade.errors import BadOption, check_choice, check_positive

Gray = NDArray[np.uint8]  # ink on black, (N, side, side) or one of them
Labeled = tuple[Gray, NDArray[np.int64]]

SIDE = 28  # of a digit, in pixels
PIECE = 8  # of clutter
CANVAS = 60


def load_digits(
    variant: Literal["plain", "rotated", "translated", "cluttered"] = "plain",
    source: str = "scikit-learn",
    size: int | None = None,
    angle: float = 90.0,
    clutter: int = 4,
    max_samples: int | None = None,
    root: str = "~/.cache/saccade",
    seed: int = 0,
) -> Task:
    """Handwritten digits, 28 x 28. The same arguments give the same task, bit for bit.

    variant     "plain"; "rotated" by up to `angle` degrees either way; "translated" to a random place of a
                black canvas; "cluttered", which also has `clutter` pieces of 8 x 8 of other digits, as in
                Mnih et al.: Recurrent Models of Visual Attention, NIPS 2014. On a canvas the mask is the
                box around the digit
    source      "scikit-learn": 1,797 digits, offline, enlarged from 8 x 8; "mnist" or "fashion_mnist"
                through torchvision, kept in `root`; or a folder of images (train/CLASS, test/CLASS)
    size        side of the canvas, by default 60 and of the digit alone 28
    max_samples       at most this many images of each split, drawn at random

    Raises `BadOption` for values out of range, `BadData` for a source that cannot be used.

    >>> task = load_digits("cluttered", max_samples=5)
    >>> task.train.images.shape, task.train.masks.shape
    (torch.Size([5, 3, 60, 60]), torch.Size([5, 60, 60]))
    """
    check_choice("digits", "variant", variant, ("plain", "rotated", "translated", "cluttered"))
    on_canvas = variant in ("translated", "cluttered")
    size = size if size is not None else CANVAS if on_canvas else SIDE
    check_positive("digits", size=size, **({} if max_samples is None else {"max_samples": max_samples}))
    if (size < SIDE) if on_canvas else (size != SIDE):
        expected = f"at least {SIDE}, the side of a digit" if on_canvas else f"{SIDE} unless on a canvas"
        raise BadOption(f"digits: size={size} must be {expected}")
    if not 0 <= angle <= 180:
        raise BadOption(f"digits: angle={angle} must lie between 0 and 180 degrees")
    if isinstance(clutter, bool) or not isinstance(clutter, int) or clutter < 0:
        raise BadOption(f"digits: clutter={clutter!r} must be an integer of at least 0")
    splits = {}
    for index, (part, (images, labels)) in enumerate(read_digits(source, root, seed).items()):
        rng = np.random.default_rng((seed, index))
        chosen = rng.permutation(len(labels))[:max_samples] if max_samples else np.arange(len(labels))
        images, labels, masks = images[chosen], labels[chosen], None
        if variant == "rotated":
            images = _rotated(images, angle, rng)
        elif on_canvas:
            images, masks = _placed(images, size, clutter if variant == "cluttered" else 0, rng)
        splits[part] = Split(
            torch.from_numpy(images).unsqueeze(1).repeat(1, 3, 1, 1),
            torch.from_numpy(labels),
            None if masks is None else torch.from_numpy(masks),
        )
    return Task(f"digits-{variant}", tuple(map(str, range(10))), *splits.values())


def read_digits(source: str, root: str, seed: int) -> dict[str, Labeled]:
    """Return the digits of each split."""
    rng = np.random.default_rng((seed, 3))
    if source == "scikit-learn":
        from sklearn.datasets import load_digits

        found = load_digits()
        small = np.rint(found.images * (255 / 16)).astype(np.uint8)
        images = np.stack(
            [np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for x in small]
        )
        labels = found.target.astype(np.int64)
        order = rng.permutation(len(labels))
        bounds = (len(labels) * 6 // 10, len(labels) * 7 // 10)
        parts = dict(zip(("train", "validation", "test"), np.split(order, bounds), strict=True))
        return {part: (images[chosen], labels[chosen]) for part, chosen in parts.items()}
    if source in SETS:
        if source not in ("mnist", "fashion_mnist"):
            raise BadOption(f"digits: source={source!r} holds no gray images of {SIDE} x {SIDE}")
        pixels, labels, _ = read_standard(source, root, train=True, download=True)
        others, answers, _ = read_standard(source, root, train=False, download=True)
        order = rng.permutation(len(labels))
        val_fraction = len(labels) // 10
        return {
            "train": (pixels[order[val_fraction:], 0], labels[order[val_fraction:]]),
            "validation": (pixels[order[:val_fraction], 0], labels[order[:val_fraction]]),
            "test": (others[:, 0], answers),
        }
    task = load_folder(source, size=SIDE, val_fraction=0.1, seed=seed)
    if len(task.classes) != 10:
        raise BadOption(f"digits: source={source!r} holds {len(task.classes)} classes; digits are of ten")
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return {part: (split.images[:, 0].numpy(), split.labels.numpy()) for part, split in splits.items()}


def ink_box(image: Gray) -> tuple[slice, slice]:
    """Return rows and columns of the box around the ink of an image (H, W); empty ones if there is none."""
    inked = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    rows, columns = (slice(it[0], it[-1] + 1) if len(it) else slice(0) for it in inked)
    return rows, columns


def _rotated(images: Gray, angle: float, rng: np.random.Generator) -> Gray:
    angles = rng.uniform(-angle, angle, len(images))
    return np.stack(
        [
            np.asarray(Image.fromarray(image).rotate(by, Image.Resampling.BILINEAR))
            for image, by in zip(images, angles, strict=True)
        ]
    )


def _placed(
    images: Gray, size: int, clutter: int, rng: np.random.Generator
) -> tuple[Gray, NDArray[np.bool_]]:
    """Put each image somewhere on a canvas, and pieces of others beside and over it; return the boxes too."""
    canvases = np.zeros((len(images), size, size), np.uint8)
    masks = np.zeros(canvases.shape, bool)
    for image, canvas, mask in zip(images, canvases, masks, strict=True):
        top, left = rng.integers(size - SIDE + 1, size=2)
        canvas[top : top + SIDE, left : left + SIDE] = image
        mask[top : top + SIDE, left : left + SIDE][ink_box(image)] = True
        for _ in range(clutter):
            other = images[rng.integers(len(images))]
            y, x = rng.integers(SIDE - PIECE + 1, size=2)
            piece = other[y : y + PIECE, x : x + PIECE]
            y, x = rng.integers(size - PIECE + 1, size=2)
            place = canvas[y : y + PIECE, x : x + PIECE]
            np.maximum(place, piece, out=place)
    return canvases, masks
