"""MNIST from a tarball of images, decoded once and cached."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


class Digits(NamedTuple):
    """Images float32 (N, 1, 28, 28) in [0, 1] and labels (N,), for training and for testing."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(archive: Path, cache: Path) -> Digits:
    """Read train/CLASS/*.png and test/CLASS/*.png from a tarball. Later calls read `cache`, an .npz file."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cache, allow_pickle=False, **_decode(archive))
    with np.load(cache) as arrays:
        return Digits(
            *(
                torch.from_numpy(arrays[name]).unsqueeze(1).float() / 255
                if arrays[name].ndim == 3
                else torch.from_numpy(arrays[name])
                for name in ("train", "train_labels", "test", "test_labels")
            )
        )


def _decode(archive: Path) -> dict[str, NDArray[np.generic]]:
    files: dict[str, list[tuple[int, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                split, label, _ = Path(member.name).parts[-3:]
                files[split].append((int(label), stream.read()))
    arrays: dict[str, NDArray[np.generic]] = {}
    with ProcessPoolExecutor(2) as pool:
        for split, labeled in files.items():
            images = pool.map(_pixels, (data for _, data in labeled), chunksize=2000)
            arrays[split] = np.stack(list(images))
            arrays[f"{split}_labels"] = np.array([label for label, _ in labeled])
    return arrays


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
