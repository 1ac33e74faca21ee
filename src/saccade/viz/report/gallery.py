"""The gallery: which test images to show, and their maps packed for the page."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.errors import BadRun
from saccade.results import ComparisonResults

SHOWN = 12  # images at most
_SIDE = 256  # pixels of an image at most; larger ones are shrunk for the page
_FACTOR_BYTES = 6 << 20  # queries and keys of all attentions together, before base64

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """The gallery of one attention: its place in the leaderboard, its run, its arrays."""

    attention: int
    seed: int
    path: Path
    arrays: Arrays


@dataclass(frozen=True)
class Shot:
    """One image of the gallery. `target` is None if the task has no masks."""

    number: int
    source: str
    width: int
    height: int
    label: str
    target: bool | None
    wrong: bool


def sources(folder: Path, results: ComparisonResults) -> list[Source]:
    """Return the gallery of each attention's first run that has one.

    Raises `BadRun` if a gallery is unreadable, incomplete or of other images than the rest.
    """
    found = []
    for attention, row in enumerate(results["leaderboard"]):
        runs = [run for run in results["runs"] if run["attention"] == row["attention"]]
        for run in sorted(runs, key=lambda run: run["seed"]):
            path = folder / run["folder"] / "gallery.npz"
            if path.is_file():
                arrays = _load(path, masks=results["task"]["masks"])
                found.append(Source(attention, run["seed"], path, arrays))
                break
    for other in found[1:]:
        if not np.array_equal(other.arrays["images"], found[0].arrays["images"]):
            raise BadRun(f"{other.path} and {found[0].path} are of different test images")
    return found


def select(labels: NDArray[Any], right: NDArray[np.bool_], target: NDArray[np.bool_] | None) -> list[int]:
    """Return the most telling images, at most `SHOWN`, in the order in which to show them.

    right (attentions, K) says who was right. Images with and without the target (or of each class, if
    the task has no masks) take turns; of each, two that the attentions dispute, the most disputed
    first, then one that all got wrong, then one that all got right, and so on.
    """
    share = right.mean(0)
    groups = labels if target is None else ~target
    queues = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        disputed = sorted((k for k in members if 0 < share[k] < 1), key=lambda k: abs(share[k] - 0.5))
        missed = [k for k in members if share[k] == 0]
        solved = [k for k in members if share[k] == 1]
        queues.append(_take_turns([disputed[::2], disputed[1::2], missed, solved]))
    return [int(k) for k in _take_turns(queues)[:SHOWN]]


def pack(
    found: Sequence[Source], classes: Sequence[str], names: Sequence[str]
) -> tuple[list[Shot], dict[str, Any]]:
    """Return the shown images and the data that the page's script draws from."""
    arrays = found[0].arrays
    masks = arrays.get("masks")
    target = None if masks is None else np.asarray(masks.any((1, 2)))
    right = np.stack([source.arrays["predictions"] == arrays["labels"] for source in found])
    chosen = select(arrays["labels"], right, target)
    shots = []
    for place, k in enumerate(chosen):
        data, (width, height) = _png(arrays["images"][k])
        has_target = None if target is None else bool(target[k])
        label = _name(classes, arrays["labels"][k])
        shots.append(Shot(place + 1, data, width, height, label, has_target, not right[:, k].all()))
    pairwise = sum("queries" in source.arrays for source in found)
    columns = [
        _column(source, names[source.attention], chosen, classes, _FACTOR_BYTES // max(1, pairwise))
        for source in found
    ]
    outlines = None
    if masks is not None:
        outlines = {"shape": masks.shape[1:], "bits": _base64(np.packbits(masks[chosen], axis=None))}
    return shots, {"masks": outlines, "columns": columns}


def _column(
    source: Source, name: str, chosen: list[int], classes: Sequence[str], budget: int
) -> dict[str, Any]:
    """Pack one attention: predictions, heat as bytes, and the factors of as many images as fit."""
    arrays = source.arrays
    predictions = arrays["predictions"][chosen]
    probabilities = arrays["probabilities"][chosen, predictions]
    column: dict[str, Any] = {
        "attention": source.attention,
        "name": name,
        "seed": source.seed,
        "kind": str(arrays["kind"]) if "kind" in arrays else None,
        "right": (predictions == arrays["labels"][chosen]).tolist(),
        "predicted": [_name(classes, prediction) for prediction in predictions],
        "probability": [float(p) if np.isfinite(p) else None for p in probabilities],
        "heat": None,
        "factors": None,
    }
    if "heat" in arrays and np.isfinite(arrays["heat"]).all():
        heat = np.rint(255 * arrays["heat"][chosen].astype(np.float32).clip(0, 1)).astype(np.uint8)
        column["heat"] = {"shape": heat.shape[1:], "bytes": _base64(heat)}
    if column["heat"] and "queries" in arrays and arrays["query_shape"].size == arrays["key_shape"].size == 2:
        queries, keys = (arrays[which][chosen].astype("<f2") for which in ("queries", "keys"))
        fits = budget // (queries[0].nbytes + keys[0].nbytes)
        column["factors"] = {
            "images": min(len(chosen), fits),
            "heads": queries.shape[1],
            "width": queries.shape[3],
            "scale": float(arrays["scale"]),
            "query_shape": arrays["query_shape"].tolist(),
            "key_shape": arrays["key_shape"].tolist(),
            "queries": _base64(queries[:fits]),
            "keys": _base64(keys[:fits]),
        }
    return column


def _load(path: Path, *, masks: bool) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadRun(f"{path} cannot be read: {error}") from None
    needed = {"images", "labels", "predictions", "probabilities"}
    needed |= {"masks"} if masks else set()
    needed |= {"kind"} if "heat" in arrays else set()
    needed |= {"keys", "scale", "query_shape", "key_shape"} if "queries" in arrays else set()
    if missing := needed - arrays.keys():
        raise BadRun(f"{path} lacks {', '.join(sorted(missing))}")
    if not len(arrays["images"]):
        raise BadRun(f"{path} holds no images")
    return arrays


def _take_turns(queues: Iterable[Sequence[Any]]) -> list[Any]:
    return [item for turn in zip_longest(*queues) for item in turn if item is not None]


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)


def _png(pixels: NDArray[np.uint8]) -> tuple[str, tuple[int, int]]:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", image.size


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
