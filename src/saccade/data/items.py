"""A sequence of (image, label), as torchvision's data sets are, as a task."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from saccade.data.cache import cached, key_of
from saccade.data.decode import OnBadImage, Sample, decoded, in_memory
from saccade.data.images import BadImage, Photograph, as_rgb, fit, naming
from saccade.data.task import Split, Task
from saccade.errors import BadData

_PARTS = ("train", "validation", "test")


class Items(Protocol):
    """Images and labels by number, as (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def task_of(
    name: str,
    parts: Mapping[str, Items],
    classes: Sequence[str] | None,
    *,
    size: int | None,
    val_fraction: float,
    max_samples: int | None,
    seed: int,
    on_bad_image: OnBadImage,
    workers: int,
    cache: tuple[Path, Mapping[str, str]] | None = None,
) -> Task:
    """Return the task of the parts that a data set has: "train" and, where it has them, the two others.

    A set without test images is tested on its validation images. What is missing then is drawn at random
    from the training images, a share `val_fraction` of them each.

    classes     their names; by default the labels are their names
    cache       a folder in which the images are kept, decoded, and what determines each part

    Raises `BadData` for what is no sequence of (image, label), with labels that are integers; `BadImage` for
    an image that cannot be read.
    """
    parts, origin = dict(parts), {part: part for part in _PARTS}
    if "test" not in parts and "validation" in parts:
        parts["test"], origin["test"] = parts.pop("validation"), "validation"
    rng = np.random.default_rng(seed)
    chosen = {part: rng.permutation(length(its, name)) for part, its in parts.items()}
    count = max(1, round(val_fraction * len(chosen["train"])))
    for part in _PARTS:
        if part not in parts:
            parts[part], chosen[part], origin[part] = parts["train"], chosen["train"][:count], "train"
            chosen["train"] = chosen["train"][count:]
    skipped: list[str] = []
    splits: dict[str, Split] = {}
    for part in _PARTS:
        indices = (chosen[part][:max_samples] if max_samples else np.sort(chosen[part])).tolist()
        read = partial(_read, parts[part], f"{name}, {origin[part]} image")
        if size is None:
            size = _side(read, indices, on_bad_image)
        decode = partial(decoded, partial(_cut, read, size), indices, workers, on_bad_image)
        if cache is None:
            splits[part] = in_memory(decode(skipped), len(indices), size)
        else:
            folder, keys = cache
            key = key_of(f"{name.partition(':')[2]}-{part}", size, [keys[origin[part]], indices])
            splits[part] = cached(folder, key, size, decode, on_bad_image, skipped)
    if classes is None:
        most = max((int(split.labels.max()) for split in splits.values() if len(split)), default=-1)
        if most >= sum(map(len, chosen.values())):
            raise BadData(f"{name}: the labels reach to {most}; 0, 1, 2 ... were expected, one of each class")
        classes = [str(label) for label in range(most + 1)]
    return Task(name, tuple(classes), *(splits[part] for part in _PARTS), skipped=tuple(skipped))


def length(items: Items, name: str) -> int:
    """Return how many items there are. Raises `BadData` if that cannot be said, or there are none."""
    try:
        count: int | None = len(items)
    except (TypeError, NotImplementedError):
        count = None
    if count is None or not hasattr(items, "__getitem__"):
        raise BadData(f"{name} makes a {type(items).__name__}, which is no sequence of (image, label)")
    if not count:
        raise BadData(f"{name} holds no image")
    return count


def _side(
    read: Callable[[int], tuple[Photograph, int]], indices: Sequence[int], on_bad_image: OnBadImage
) -> int:
    """Return the shorter side of the first image that can be read."""
    for index in indices:
        try:
            height, width, _ = read(index)[0].shape
            return int(min(height, width))
        except BadImage:
            if on_bad_image == "fail":
                raise
    return 1  # of no image at all, which the task refuses


def _cut(read: Callable[[int], tuple[Photograph, int]], size: int, index: int) -> Sample:
    photograph, label = read(index)
    return Sample(fit(photograph, size), label)


def _read(items: Items, where: str, index: int) -> tuple[Photograph, int]:
    where = f"{where} {index}"
    try:
        item = items[index]
    except Exception as error:  # anybody's code may raise anything
        raise BadImage(f"{where} cannot be read: {str(error) or type(error).__name__}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        shown = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise BadData(f"{where} is {shown}, where (image, label) was expected")
    image, label = item
    try:
        number = operator.index(label)
    except TypeError as error:
        raise BadData(f"{where} has the label {label!r}, where an integer was expected") from error
    pixels = image if isinstance(image, Image.Image) else _from_numbers(image, where)
    with naming(where):
        return np.asarray(as_rgb(pixels), dtype=np.uint8), number


def _from_numbers(image: object, where: str) -> Image.Image:
    """Return a tensor (C, H, W) or an array (H, W, C), of bytes or of floats from 0 to 1, as an image."""
    if isinstance(image, Tensor):
        pixels = image.detach().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
        form = "(C, H, W)"
    elif isinstance(image, np.ndarray):
        pixels, form = image, "(H, W, C)"
    else:
        raise BadData(
            f"{where} is a {type(image).__name__}, where an image, a tensor or an array was expected"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if 0 in pixels.shape or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise BadData(f"{where} is of shape {tuple(image.shape)}, where {form} was expected, C of 1, 3 or 4")
    if np.issubdtype(pixels.dtype, np.floating):
        least, most = float(pixels.min()), float(pixels.max())
        if not 0 <= least <= most <= 1:
            raise BadData(
                f"{where} has values from {least:g} to {most:g}, where floats from 0 to 1 were expected"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise BadData(f"{where} has pixels of {pixels.dtype}, where uint8 or floats were expected")
    return Image.fromarray(np.ascontiguousarray(pixels))
