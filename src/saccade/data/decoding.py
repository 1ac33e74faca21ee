"""Decoding of many images: in threads, in order, into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from saccade.data.checks import OnBadImage, check_memory
from saccade.data.images import BadImage, Photograph
from saccade.data.task import Split

_T = TypeVar("_T")

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
    read: Callable[[_T], Sample],
    items: Sequence[_T],
    workers: int,
    on_bad_image: OnBadImage,
    skipped: list[str],
) -> Iterator[Sample]:
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


def _results(
    read: Callable[[_T], Sample], items: Sequence[_T], workers: int
) -> Iterator[Callable[[], Sample]]:
    """Yield a function for each item that returns its sample, or raises the error of `read`."""
    if workers == 1:
        yield from (partial(read, item) for item in items)
        return
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Sample]] = deque()
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
