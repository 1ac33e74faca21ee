"""Gallery of the report: selection of test images, and their maps as the payload of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saccade.data import contact_sheet
from saccade.errors import bad_run
from saccade.maps import AttentionMap
from saccade.metrics import confusion_matrix, mean_iou
from saccade.results import GALLERY, ComparisonResults, Gallery, read_gallery
from saccade.viz.payload import encode_bytes, pack_maps, select_images, sheet_map

MAX_IMAGES = 12
_FACTOR_BYTES = 6 << 20  # factors of all attentions, before base64
_IMAGE_SIDE, _MAP_SIDE, _SEGMENT_SIDE = 256, 96, 128  # pixels


@dataclass(frozen=True)
class Source:
    """The gallery of one attention.

    Attributes:
        attention: Index of the attention in the leaderboard.
        seed: Seed of the run.
        path: Path of the file.
        gallery: Its content.
    """

    attention: int
    seed: int
    path: Path
    gallery: Gallery


def read_sources(folder: Path, results: ComparisonResults) -> list[Source]:
    """Read the gallery of the first run of each attention that has one.

    Raises:
        BadRun: A gallery is damaged or incomplete, or two galleries have different images.
    """
    sources = []
    for attention, row in enumerate(results["leaderboard"]):
        runs = [run for run in results["runs"] if run["attention"] == row["attention"]]
        for run in sorted(runs, key=lambda run: run["seed"]):
            path = folder / run["folder"] / GALLERY
            try:
                gallery = read_gallery(path.parent)
            except FileNotFoundError:
                continue
            if results["task"]["masks"] and gallery.masks is None:
                raise bad_run(path, "lacks masks", "masks")
            sources.append(Source(attention, run["seed"], path, gallery))
            break
    for other in sources[1:]:
        if not other.gallery.images.equal(sources[0].gallery.images):
            problem = f"and {str(sources[0].path)!r} have different test images"
            raise bad_run(other.path, problem, "images")
    return sources


def select(labels: NDArray[Any], right: NDArray[np.bool_], target: NDArray[np.bool_] | None) -> list[int]:
    """Return the indices of the most informative images, at most `MAX_IMAGES`, in display order.

    Images with and without the target alternate; without masks, the classes alternate. Within each group,
    two images on which the attentions disagree, the most disputed first, alternate with one that all
    misclassify and one that all classify correctly.

    Args:
        labels: True classes, (K,).
        right: Whether each attention is right, (attentions, K).
        target: Whether the target is present, (K,); None without masks.
    """
    share = right.mean(0)
    groups = labels if target is None else ~target
    queues = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        disputed = sorted((k for k in members if 0 < share[k] < 1), key=lambda k: abs(share[k] - 0.5))
        missed = [k for k in members if share[k] == 0]
        solved = [k for k in members if share[k] == 1]
        queues.append(_interleave([disputed[::2], disputed[1::2], missed, solved]))
    return [int(k) for k in _interleave(queues)[:MAX_IMAGES]]


def select_from(sources: Sequence[Source]) -> list[int]:
    """Return the indices of the images that the page shows.

    For segmentation, these are the images whose IoU differs most between the attentions.
    """
    gallery = sources[0].gallery
    if gallery.truth is not None:
        scores = np.array([image_iou(source.gallery) for source in sources])
        return [int(k) for k in np.argsort(scores.min(0) - scores.max(0), kind="stable")[:MAX_IMAGES]]
    target = None if gallery.masks is None else gallery.masks.flatten(1).any(1).numpy()
    right = np.stack([source.gallery.predictions.eq(gallery.labels).numpy() for source in sources])
    return select(gallery.labels.numpy(), right, target)


def image_iou(gallery: Gallery) -> list[float]:
    """Return the mean IoU of the classes in each image of a segmentation; 1 for an image without any."""
    pairs = zip(cast(Tensor, gallery.segments), cast(Tensor, gallery.truth), strict=True)
    classes = gallery.probabilities.shape[1]
    scores = [mean_iou(confusion_matrix(predicted.long(), true, classes)) for predicted, true in pairs]
    return [1.0 if math.isnan(score) else score for score in scores]


def pack_gallery(
    sources: Sequence[Source], classes: Sequence[str], names: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the images of the page, and the payload from which its script draws.

    The columns of a segmentation have the IoU of each image in place of the predicted class. Each image has
    `number`, `source`, `width`, `height`, `label` (the true class), `target` (whether the
    target is present; None without masks) and `wrong` (whether any attention misclassifies it).

    Args:
        sources: Galleries, in the order of the columns.
        classes: Class names.
        names: Attentions, in the order of the leaderboard.
    """
    chosen = select_from(sources)
    first = sources[0].gallery
    is_clip = first.images.ndim == 5
    images, labels = first.images[chosen], first.labels[chosen]
    shown = (contact_sheet(images) if is_clip else images).permute(0, 2, 3, 1).contiguous().numpy()
    columns: list[dict[str, Any]] = []
    maps: dict[str, AttentionMap] = {}
    saliency: dict[str, Tensor] = {}
    for source in sources:
        gallery, layer = source.gallery, None
        if gallery.map is not None:
            attention = select_images(gallery.map, chosen)
            attention = sheet_map(attention, tuple(images.shape[2:])) if is_clip else attention
            values = attention.saliency()
            if values.ndim == 3 and values.isfinite().all():
                layer, key = len(maps), str(source.attention)
                maps[key], saliency[key] = attention, values
        columns.append(_column(source, names[source.attention], chosen, classes) | {"layer": layer})
    packed = pack_maps(
        maps,
        saliency,
        [*shown],
        [str(k) for k in chosen],
        _FACTOR_BYTES,
        image_side=_IMAGE_SIDE,
        map_side=_MAP_SIDE,
        with_channels=False,
    )
    masks = None if first.masks is None else first.masks[chosen]
    outlines = None
    if masks is not None:
        sheets = contact_sheet(masks) if is_clip else masks
        bits = np.packbits(sheets.numpy(), axis=None)
        outlines = {"shape": list(sheets.shape[1:]), "bits": encode_bytes(bits.tobytes())}
    shown_images = [
        image
        | {
            "number": k + 1,
            "label": _class_name(classes, int(labels[k])),
            "target": None if masks is None else bool(masks[k].any()),
            "wrong": any(column["right"][k] is False for column in columns),
        }
        for k, image in enumerate(packed["images"])
    ]
    segments = _pack_segments(sources, chosen)
    return shown_images, {
        "masks": outlines,
        "segments": segments,
        "columns": columns,
        # Circles around sinks would cover the map of a tile; `look` draws them.
        "layers": [
            {key: value for key, value in layer.items() if key not in ("sinks", "sink_share")}
            for layer in packed["layers"]
        ],
    }


def _pack_segments(sources: Sequence[Source], chosen: list[int]) -> dict[str, Any] | None:
    """Return the predicted class of each pixel for each column, reduced to the size of a tile."""
    if any(source.gallery.segments is None for source in sources):
        return None
    values = []
    for source in sources:
        segments = cast(Tensor, source.gallery.segments)[chosen]
        step = math.ceil(max(segments.shape[1:]) / _SEGMENT_SIDE)
        values.append(segments[:, ::step, ::step].contiguous())
    encoded = [encode_bytes(value.numpy().tobytes()) for value in values]
    return {"shape": list(values[0].shape[1:]), "classes": encoded}


def _column(source: Source, name: str, chosen: list[int], classes: Sequence[str]) -> dict[str, Any]:
    gallery = source.gallery
    column = {"attention": source.attention, "name": name, "seed": source.seed, "kind": gallery.kind}
    if gallery.segments is not None:
        scores = image_iou(gallery)
        predicted, unknown = [f"IoU {scores[k]:.2f}" for k in chosen], [None for _ in chosen]
        return column | {"right": unknown, "predicted": predicted, "probability": unknown}
    predictions = gallery.predictions[chosen]
    probabilities = gallery.probabilities[chosen].gather(1, predictions[:, None])[:, 0]
    return column | {
        "right": predictions.eq(gallery.labels[chosen]).tolist(),
        "predicted": [_class_name(classes, prediction) for prediction in predictions.tolist()],
        "probability": [float(p) if p.isfinite() else None for p in probabilities],
    }


def _interleave(queues: Iterable[Sequence[Any]]) -> list[Any]:
    return [item for turn in zip_longest(*queues) for item in turn if item is not None]


def _class_name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)
