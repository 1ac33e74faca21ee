"""Splits that are decoded once into files, which are mapped into memory: for more images than it holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from filelock import FileLock
from torch import Tensor

from saccade.data.decode import OnBadImage, Sample
from saccade.data.images import BadImage
from saccade.data.task import Split, moments
from saccade.errors import BadData

FORMAT = 1  # of the files of a cache


def key_of(name: str, size: int, determined: Iterable[Any]) -> str:
    """Name what determines a split: its items in their order, such as files and labels, and the size.

    A file is known by its path, its length and the time of its last change. Another version of Pillow may
    decode other pixels.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, PIL.__version__]).encode())
    for item in determined:
        digest.update(json.dumps(item, default=_identity).encode())
    return f"{name}-{size}-{digest.hexdigest()[:20]}"


def _identity(file: Path) -> list[str | int]:
    try:
        facts = file.stat()
    except OSError:  # the reader will say so
        return [os.path.abspath(file)]
    return [os.path.abspath(file), facts.st_size, facts.st_mtime_ns]


def cached(
    folder: Path,
    key: str,
    size: int,
    decode: Callable[[list[str]], Iterator[Sample]],
    on_bad_image: OnBadImage,
    bad: list[str],
) -> Split:
    """Return the split of this key from its files in `folder`; before that, write them if they are not there.

        folder/KEY/images       uint8 (N, 3, S, S), nothing else
        folder/KEY/masks        bool (N, S, S), where there are masks
        folder/KEY/split.json   labels, images left out, mean and standard deviation

    `decode` yields the samples, and the names of those left out into its list. The folder of the key appears
    by rename when it is complete, so that a process that is killed leaves no half of one. Of several
    processes one writes, and the others wait for it.

    Raises `BadData` if the files cannot be written or are damaged, `BadImage` if an image was left out that
    may not be.
    """
    place = folder / key
    if not place.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{key}.lock"):
                if not place.is_dir():
                    _write(place, size, decode)
        except OSError as error:
            reason = error.strerror or error
            raise BadData(f"the cache {str(folder)!r} cannot be written: {reason}") from error
    try:
        facts = json.loads((place / "split.json").read_text())
        labels = torch.tensor(facts["labels"], dtype=torch.int64)
        images = _mapped(place / "images", (len(labels), 3, size, size), np.uint8)
        masks = _mapped(place / "masks", (len(labels), size, size), np.bool_) if facts["masks"] else None
        known = torch.tensor(facts["mean"]), torch.tensor(facts["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"the cache {str(place)!r} is damaged ({error}); remove it") from error
    if facts["skipped"] and on_bad_image == "fail":
        raise BadImage(facts["skipped"][0])
    bad += facts["skipped"]
    return Split(images, labels, masks, moments=known)


def _write(place: Path, size: int, decode: Callable[[list[str]], Iterator[Sample]]) -> None:
    partial = place.with_name(f".{place.name}.partial")  # of whoever holds the lock; others' are dead
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        labels: list[int] = []
        skipped: list[str] = []
        has_masks = False
        with (partial / "images").open("wb") as images, (partial / "masks").open("wb") as masks:
            for sample in decode(skipped):
                images.write(np.ascontiguousarray(sample.image.transpose(2, 0, 1)).data)
                if sample.mask is not None:
                    masks.write(np.ascontiguousarray(sample.mask).data)
                    has_masks = True
                labels.append(sample.label)
            for file in (images, masks):
                file.flush()
                os.fsync(file.fileno())
        facts: dict[str, Any] = {"labels": labels, "masks": has_masks, "skipped": skipped}
        mean, std = moments(_mapped(partial / "images", (len(labels), 3, size, size), np.uint8))
        facts |= {"mean": mean.tolist(), "std": std.tolist()}
        (partial / "split.json").write_text(json.dumps(facts))
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Return the content of a file, of which only what is looked at comes into memory.

    It is mapped for reading alone: of a mapping that could be written to, Linux refuses one larger than the
    memory.
    """
    expected = int(np.prod(shape))
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} holds {path.stat().st_size} bytes, not {expected}")
    if not expected:  # nothing cannot be mapped
        return torch.from_numpy(np.empty(shape, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, dtype, mode="r", shape=shape))
