"""Decoding of many images: in threads, in order, into memory or into files that are mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from saccade.data.checks import OnBadImage, ReadingOptions, check_memory
from saccade.data.images import BadImage, Photograph
from saccade.data.task import Split, moments
from saccade.errors import BadData

FORMAT = 1  # version of the files of the cache

_T = TypeVar("_T")
_R = TypeVar("_R")

_PREFETCH = 8  # images per thread that may be decoded in advance


@dataclass(frozen=True)
class Sample:
    """An image (S, S, 3) with its label and, if the task has masks, its mask (S, S)."""

    image: Photograph
    label: int
    mask: NDArray[np.bool_] | None = None


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_samples(
    read: Callable[[_T], _R],
    items: Sequence[_T],
    workers: int,
    on_bad_image: OnBadImage,
    skipped: list[str],
) -> Iterator[_R]:
    """Yield `read(item)` for each item, in order, with several threads.

    Args:
        read: Function that decodes one item.
        items: The items.
        workers: Number of threads.
        on_bad_image: "fail" raises the first `BadImage`; "skip" appends its message to `skipped`.
        skipped: List of messages, extended in place.

    Raises:
        BadImage: An image cannot be read and `on_bad_image` is "fail". Other errors of `read` pass through.
    """
    for result in _results(read, items, workers):
        try:
            sample = result()
        except BadImage as error:
            if on_bad_image == "fail":
                raise
            skipped.append(str(error))
        else:
            yield sample


def _results(read: Callable[[_T], _R], items: Sequence[_T], workers: int) -> Iterator[Callable[[], _R]]:
    """Yield a function for each item that returns its sample, or raises the error of `read`."""
    if workers == 1:
        yield from (partial(read, item) for item in items)
        return
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[_R]] = deque()
    try:
        for item in items:  # pool.map would decode everything ahead of a slow consumer
            pending.append(pool.submit(read, item))
            if len(pending) == _PREFETCH * workers:
                yield pending.popleft().result
        while pending:
            yield pending.popleft().result
    finally:
        pool.shutdown(cancel_futures=True)


def stack_samples(samples: Iterator[Sample], count: int, size: int) -> Split:
    """Return up to `count` samples as a split in memory."""
    check_memory("images", size, count)
    images = np.empty((count, 3, size, size), np.uint8)
    labels: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    for image, sample in zip(images, samples, strict=False):
        image[:] = sample.image.transpose(2, 0, 1)
        labels.append(sample.label)
        if sample.mask is not None:
            masks.append(sample.mask)
    stacked = torch.from_numpy(np.stack(masks)) if masks else None
    return Split(torch.from_numpy(images[: len(labels)]), torch.tensor(labels, dtype=torch.int64), stacked)


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
