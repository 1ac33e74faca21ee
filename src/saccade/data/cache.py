"""Cache of decoded splits: files of pixels, mapped into memory, for data sets larger than memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from filelock import FileLock
from torch import Tensor

from saccade.data.checks import ReadingOptions, check_memory
from saccade.data.decoding import Sample, available_cpus, decode_samples, stack_samples
from saccade.data.images import BadImage
from saccade.data.task import Split, moments
from saccade.errors import BadData

FORMAT = 1  # version of the files

_T = TypeVar("_T")


def cache_key(name: str, size: int, content: Iterable[Any]) -> str:
    """Return the folder name of a cached split.

    Files are identified by path, length and modification time. The key depends on the version of Pillow, as
    versions may decode different pixels.

    Args:
        name: Beginning of the key.
        size: Height and width of the images.
        content: What determines the split, in order, for example files and labels.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, PIL.__version__]).encode())
    for item in content:
        digest.update(json.dumps(item, default=_identity).encode())
    return f"{name}-{size}-{digest.hexdigest()[:20]}"


def _identity(file: Path) -> list[str | int]:
    try:
        status = file.stat()
    except OSError:  # the reader reports a missing file
        return [os.path.abspath(file)]
    return [os.path.abspath(file), status.st_size, status.st_mtime_ns]


def load_split(
    name: str,
    size: int,
    read: Callable[[_T], Sample],
    items: Sequence[_T],
    content: Iterable[Any],
    options: ReadingOptions,
    skipped: list[str],
) -> Split:
    """Load a split into memory, or from the cache, which decodes and writes it first if it is not there.

        folder/KEY/images       uint8 (N, 3, S, S), pixels alone
        folder/KEY/masks        bool (N, S, S), if there are masks
        folder/KEY/split.json   labels, skipped images, mean and standard deviation

    The folder of the key appears by an atomic rename, so that a killed process leaves no partial split. If
    several processes need the same split, one writes it and the others wait.

    Args:
        name: Name of the split.
        size: Height and width S of the images.
        read: Function that decodes one item.
        items: The items of the split.
        content: What determines the split, see `cache_key`.
        options: Folder of the cache, number of threads, and what an unreadable image does.
        skipped: List of messages, extended in place.

    Raises:
        BadData: The files cannot be written, or they are damaged.
        BadImage: An image cannot be read and `on_bad_image` is "fail".
    """
    check_memory(options.owner, size, len(items) if options.cache is None else 1)
    workers = options.workers or available_cpus()
    decode = partial(decode_samples, read, items, workers, options.on_bad_image)
    if options.cache is None:
        return stack_samples(decode(skipped), len(items), size)
    folder = Path(options.cache).expanduser()
    place = folder / cache_key(name, size, content)
    try:
        if not place.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{place.name}.lock"):
                if not place.is_dir():
                    _write(place, size, decode)
    except OSError as error:
        problem = f"the cache cannot be written: {error.strerror or error}"
        raise BadData.of(str(folder), problem, cache=str(folder)) from error
    try:
        entry = json.loads((place / "split.json").read_text())
        labels = torch.tensor(entry["labels"], dtype=torch.int64)
        images = _map_file(place / "images", (len(labels), 3, size, size), np.uint8)
        masks = _map_file(place / "masks", (len(labels), size, size), np.bool_) if entry["masks"] else None
        mean_and_std = torch.tensor(entry["mean"]), torch.tensor(entry["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"the cache is damaged ({error}); remove it"
        raise BadData.of(str(place), problem, cache=str(folder)) from error
    if entry["skipped"] and options.on_bad_image == "fail":
        raise BadImage(entry["skipped"][0], owner=str(place), option="on_bad_image", value="fail")
    skipped += entry["skipped"]
    return Split(images, labels, masks, moments=mean_and_std)


def _write(place: Path, size: int, decode: Callable[[list[str]], Iterator[Sample]]) -> None:
    unfinished = place.with_name(f".{place.name}.partial")  # of a killed process: the lock is ours
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        labels: list[int] = []
        skipped: list[str] = []
        with (unfinished / "images").open("wb") as images, (unfinished / "masks").open("wb") as masks:
            for sample in decode(skipped):
                images.write(np.ascontiguousarray(sample.image.transpose(2, 0, 1)).data)
                if sample.mask is not None:
                    masks.write(np.ascontiguousarray(sample.mask).data)
                labels.append(sample.label)
            has_masks = masks.tell() > 0
            for file in (images, masks):
                file.flush()
                os.fsync(file.fileno())
        mean, std = moments(_map_file(unfinished / "images", (len(labels), 3, size, size), np.uint8))
        entry = {"labels": labels, "masks": has_masks, "skipped": skipped}
        entry |= {"mean": mean.tolist(), "std": std.tolist()}
        (unfinished / "split.json").write_text(json.dumps(entry))
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _map_file(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Map a file into memory, read-only: Linux refuses writable mappings larger than memory."""
    expected = int(np.prod(shape))
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} holds {path.stat().st_size} bytes, not {expected}")
    if not expected:  # an empty file cannot be mapped
        return torch.from_numpy(np.empty(shape, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, dtype, mode="r", shape=shape))
