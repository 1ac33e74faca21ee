"""Map-style data sets, sequences of (image, label) as in torchvision, as a task."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from saccade.data.checks import OnBadImage, ReadingOptions
from saccade.data.decoding import Sample, load_split
from saccade.data.images import BadImage, as_rgb, convert_image_errors, resize_and_crop
from saccade.data.task import PARTS, Task
from saccade.errors import BadData


class MapDataset(Protocol):
    """A map-style data set of (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def task_from_datasets(
    name: str,
    parts: Mapping[str, MapDataset],
    classes: Sequence[str] | None,
    options: ReadingOptions,
    content: Mapping[str, str] | None = None,
) -> Task:
    """Return the task of the parts of a data set.

    Without test images, the validation images become the test split. Missing splits are drawn at random from
    the training images, the fraction `val_fraction` for each.

    Args:
        name: Name of the task.
        parts: The data sets "train" and, if they exist, "validation" and "test".
        classes: Names of the classes; default: the labels.
        options: Size, splits, and how images are read.
        content: A text for each part that identifies its content, for the cache.

    Raises:
        BadData: A part is not a sequence of (image, label) with integer labels.
        BadImage: An image cannot be read.
    """
    parts, origin = dict(parts), {part: part for part in PARTS}
    if "test" not in parts and "validation" in parts:
        parts["test"], origin["test"] = parts.pop("validation"), "validation"
    rng = np.random.default_rng(options.seed)
    order = {part: rng.permutation(check_length(dataset, name)) for part, dataset in parts.items()}
    count = max(1, round(options.val_fraction * len(order["train"])))
    for part in PARTS:
        if part not in parts:
            parts[part], order[part], origin[part] = parts["train"], order["train"][:count], "train"
            order["train"] = order["train"][count:]
    size, most = options.size, options.max_samples
    skipped: list[str] = []
    splits = []
    for part in PARTS:
        indices = (order[part][:most] if most else np.sort(order[part])).tolist()
        read = partial(_read, parts[part], f"{name}, {origin[part]} image")
        size = size or _shorter_side(read, indices, options.on_bad_image)
        key = [(content or {}).get(origin[part]), indices]
        name_of_part = f"{name.partition(':')[2]}-{part}"
        splits.append(
            load_split(name_of_part, size, partial(read, size=size), indices, key, options, skipped)
        )
    if classes is None:
        largest = max((int(split.labels.max()) for split in splits if len(split)), default=-1)
        if largest >= sum(map(len, order.values())):
            problem = f"the largest label is {largest}; 0, 1, 2 ... were expected, one per class"
            raise BadData.of(name, problem, label=largest)
        classes = [str(label) for label in range(largest + 1)]
    return Task(name, tuple(classes), *splits, skipped=tuple(skipped))


def check_length(dataset: MapDataset, name: str) -> int:
    """Return the length of a data set.

    Raises:
        BadData: It has no length, no items by index, or no items.
    """
    try:
        count = len(dataset) if hasattr(dataset, "__getitem__") else None
    except (TypeError, NotImplementedError):
        count = None
    if count is None:
        kind = type(dataset).__name__
        raise BadData(f"{name} returns a {kind}, not a sequence of (image, label)", owner=name, value=kind)
    if not count:
        raise BadData(f"{name} contains no image", owner=name, value=0)
    return count


def _shorter_side(read: Callable[[int], Sample], indices: Sequence[int], on_bad_image: OnBadImage) -> int:
    """Return the shorter side of the first readable image."""
    for index in indices:
        try:
            return int(min(read(index).image.shape[:2]))
        except BadImage:
            if on_bad_image == "fail":
                raise
    return 1  # no readable image; the task raises the error


def _bad_item(name: str, actual: str, expected: str, value: object) -> BadData:
    return BadData(f"{name} {actual}, but {expected} was expected", owner=name, value=value)


def _read(dataset: MapDataset, name: str, index: int, size: int | None = None) -> Sample:
    """Return an image, as a square of `size` pixels or in its own size, with its label."""
    name = f"{name} {index}"
    try:
        item = dataset[index]
    except Exception as error:  # third-party code may raise anything
        message = f"{name} cannot be read: {str(error) or type(error).__name__}"
        raise BadImage(message, owner=name, value=index) from error
    is_sequence, kind = isinstance(item, tuple | list), type(item).__name__
    if not is_sequence or len(item) != 2:
        length = f" of length {len(item)}" if is_sequence else ""
        raise _bad_item(name, f"is a {kind}{length}", "(image, label)", kind)
    image, label = item
    try:
        number = operator.index(label)
    except TypeError as error:
        raise _bad_item(name, f"has the label {label!r}", "an integer", label) from error
    pixels = image if isinstance(image, Image.Image) else _from_array(image, name)
    with convert_image_errors(name):
        photograph = np.asarray(as_rgb(pixels), dtype=np.uint8)
    return Sample(photograph if size is None else resize_and_crop(photograph, size), number)


def _from_array(image: object, name: str) -> Image.Image:
    """Convert a tensor (C, H, W) or an array (H, W, C), of uint8 or of floats in [0, 1], to an image."""
    if not isinstance(image, Tensor | np.ndarray):
        kind = type(image).__name__
        raise _bad_item(name, f"is a {kind}", "a PIL image, a tensor or an array", kind)
    form = "(C, H, W)" if isinstance(image, Tensor) else "(H, W, C)"
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else image
    if pixels.ndim == 3 and isinstance(image, Tensor):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if 0 in pixels.shape or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        shape = tuple(image.shape)
        raise _bad_item(name, f"has the shape {shape}", f"{form} with C = 1, 3 or 4", shape)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 1:
            raise _bad_item(name, f"has values from {low:g} to {high:g}", "the range 0 to 1", (low, high))
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        dtype = str(pixels.dtype)
        raise _bad_item(name, f"has pixels of type {dtype}", "uint8 or a floating-point type", dtype)
    return Image.fromarray(np.ascontiguousarray(pixels))
