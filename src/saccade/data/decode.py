"""Decoding many images: in threads, in their order, into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from saccade.data.images import BadImage, Photograph
from saccade.data.task import Split
from saccade.errors import BadOption, check_choice, check_positive

_T = TypeVar("_T")
OnBadImage = Literal["fail", "skip"]

_AHEAD = 8  # images of each thread that may be decoded before they are asked for


@dataclass(frozen=True)
class Sample:
    """A square image (S, S, 3) with its label and, where there are any, its mask (S, S)."""

    image: Photograph
    label: int
    mask: NDArray[np.bool_] | None = None


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_reading(
    owner: str,
    *,
    size: int | None,
    val_fraction: float,
    max_samples: int | None,
    on_bad_image: str,
    workers: int | None,
) -> None:
    """Raise `BadOption` for values out of range of the options that tasks of images to be read share."""
    given = {"size": size, "max_samples": max_samples, "workers": workers}
    check_positive(owner, **{name: value for name, value in given.items() if value is not None})
    check_choice(owner, "on_bad_image", on_bad_image, ("fail", "skip"))
    if not 0 < val_fraction < 0.5:
        raise BadOption(f"{owner}: val_fraction={val_fraction} must lie between 0 and 0.5")


def decoded(
    read: Callable[[_T], Sample], items: Sequence[_T], workers: int, on_bad_image: OnBadImage, bad: list[str]
) -> Iterator[Sample]:
    """Yield what `read` makes of each item, in their order, whichever of the threads is done first.

    Of an image for which it raises `BadImage`, the first one ends it, or all go to `bad`, as sentences. Any
    other error ends it.
    """
    for found in _attempts(read, items, workers):
        if isinstance(found, Sample):
            yield found
        elif on_bad_image == "fail":
            raise found
        else:
            bad.append(str(found))


def _attempts(read: Callable[[_T], Sample], items: Sequence[_T], workers: int) -> Iterator[Sample | BadImage]:
    def attempt(item: _T) -> Sample | BadImage:
        try:
            return read(item)
        except BadImage as error:
            return error

    if workers == 1:
        yield from map(attempt, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Sample | BadImage]] = deque()
        try:
            for item in items:  # not by pool.map, which would run ahead of whoever writes to a disk
                waiting.append(pool.submit(attempt, item))
                if len(waiting) == _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_memory(samples: Iterator[Sample], count: int, size: int) -> Split:
    """Return up to `count` samples as a split."""
    images = np.empty((count, 3, size, size), np.uint8)
    labels: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    for image, sample in zip(images, samples, strict=False):
        image[:] = sample.image.transpose(2, 0, 1)
        labels.append(sample.label)
        if sample.mask is not None:
            masks.append(sample.mask)
    return Split(
        torch.from_numpy(images[: len(labels)]),
        torch.tensor(labels, dtype=torch.int64),
        torch.from_numpy(np.stack(masks)) if masks else None,
    )
