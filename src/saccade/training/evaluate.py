"""Evaluation of a trained model: error, attention maps, their localization, and the gallery of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from saccade.data import IGNORED, Split, Task, load_task
from saccade.errors import BadData, bad_run
from saccade.maps import AttentionMap
from saccade.metrics import Localization, LocalizationScore, iou
from saccade.metrics import localize as localize_maps
from saccade.recording import record
from saccade.results import (
    SCHEMA,
    ClassError,
    Evaluation,
    Gallery,
    Interval,
    RunLocalization,
    proportion_interval,
)
from saccade.training.checkpoint import restore, stored_task
from saccade.training.measurement import Measurement, batch_size, batches, measure, predict
from saccade.training.module import Classifier
from saccade.training.network import attention_path

_GALLERY_IMAGES = 24


def evaluate_run(path: Path, task: str | None = None, *, trust: bool = False) -> Evaluation:
    """Evaluate the model of a run, or of a checkpoint, on the test images of a task.

    Args:
        path: Folder of a run, or a checkpoint.
        task: NAME[:option=value,...], with the same classes as the task of the run, which is the default.
        trust: Whether to load a task that reads, downloads or imports something, although this user has not
            trained the run.

    Returns:
        The content of `saccade evaluate --json`. The interval of the error is Wilson's for a proportion of
        the images: it does not cover the variation between seeds.

    Raises:
        BadRun: There is no such model, or its task is not trusted.
        BadData: The task has other classes, or images of a size that the model does not accept.
    """
    if (path / "runs").is_dir():
        raise bad_run(path, "is the folder of a comparison; name one of its runs, below runs/")
    classifier = restore(path)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    data = load_task(task) if task else stored_task(path, classifier, trust=trust)
    _check(classifier, data, task or classifier.recipe.task)
    measured = measure(classifier, data.test)
    return {
        "schema": SCHEMA,
        "network": str(path),
        "attention": classifier.recipe.attention,
        "task": data.name,
        "images": len(data.test),
        "error": _interval(measured, len(data.test)),
        "loss": measured.loss,
        "chance_error": data.chance_error(),
        "classes": _class_errors(measured, data),
        "confusion": measured.confusion.tolist(),
        "localization": localize(classifier, data.test),
        "skipped": list(data.skipped),
    }


def _interval(measured: Measurement, images: int) -> Interval:
    if measured.segmentation is not None:  # the pixels of an image are not independent
        return {"mean": measured.error, "low": None, "high": None}
    return proportion_interval(images - int(measured.confusion.diagonal().sum()), images)


def _class_errors(measured: Measurement, task: Task) -> list[ClassError]:
    counts = measured.confusion.sum(1).tolist()
    right = (measured.confusion.diagonal() / measured.confusion.sum(1)).tolist()
    if measured.segmentation is not None:
        classes = range(len(task.classes))
        counts = [int((task.test.labels == number).flatten(1).any(1).sum()) for number in classes]
        right = iou(measured.confusion).tolist()
    return [
        {"name": name, "images": images, "error": 1 - share if images else None}
        for name, images, share in zip(task.classes, counts, right, strict=True)
    ]


def localize(classifier: Classifier, split: Split) -> RunLocalization | None:
    """Return the mean localization of the attention on images with a target, or None without one of them."""
    if attention_path(classifier.model) is None or split.masks is None or not split.masks.any():
        return None
    with_target = split.masks.flatten(1).any(1)
    images, masks = split.images[with_target], split.masks[with_target]
    scores, path, kind = [], "", ""
    for batch, mask in zip(batches(classifier, images), masks.split(batch_size(classifier)), strict=True):
        path, attention, _ = record_attention(classifier, batch)
        kind = attention.kind
        scores.append(localize_maps(*_on_one_grid(attention, mask)))
    return cast(RunLocalization, {"path": path, "kind": kind, **_joined(scores).mean()})


@torch.inference_mode()
def record_attention(classifier: Classifier, images: Tensor) -> tuple[str, AttentionMap, Tensor]:
    """Record the main attention of a model, see `saccade.training.network.attention_path`.

    Args:
        classifier: The model.
        images: A batch on the device of the model.

    Returns:
        The path of the attention in the network, its map, and the logits.
    """
    with record(classifier) as maps:
        logits = classifier(images)
    attention = maps[f"model.{attention_path(classifier.model)}".rstrip(".")]
    path = next(path for path, recorded in maps.items() if recorded is attention)
    return path.removeprefix("model").removeprefix("."), attention, logits


@torch.inference_mode()
def build_gallery(classifier: Classifier, split: Split) -> Gallery:
    """Return test images of each class with their predictions and the attention map, for the report."""
    is_segmentation = split.labels.ndim > 1
    labels = _main_class(split.labels) if is_segmentation else split.labels
    chosen = _gallery_images(labels)
    shown, labels = split.select(chosen), labels[chosen]
    images, attention = shown.images.to(classifier.device), None
    if attention_path(classifier.model) is None:
        logits = classifier(images)
    else:
        _, attention, logits = record_attention(classifier, images)
    predictions, probabilities = logits.argmax(1).cpu(), logits.softmax(1).float().cpu()
    gallery = Gallery(shown.images, labels, predictions, probabilities, shown.masks, attention)
    if not is_segmentation:
        return gallery
    return replace(
        gallery,
        predictions=_main_class(predictions),
        probabilities=probabilities.mean((2, 3)),
        truth=shown.labels,
        segments=predictions.to(torch.uint8),
    )


def _main_class(labels: Tensor) -> Tensor:
    """Return the class of most pixels of each image but the background, or the background; int64 `(N,)`."""
    classes = int(labels.where(labels != IGNORED, 0).max()) + 1
    counts = torch.stack([(labels == number).flatten(1).sum(1) for number in range(classes)]).double()
    counts[0].clamp_(max=0.5)  # less than one pixel of another class
    return counts.argmax(0)


def _on_one_grid(attention: AttentionMap, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return heatmap and mask on one grid, both `(B, H, W)`; the frames of a clip become rows.

    For a map over time only, the mask marks the frames with a target.
    """
    if mask.ndim == 4 and attention.saliency().ndim == 2:
        mask = mask.flatten(2).any(2)
    heat = attention.heatmap(tuple(mask.shape[1:])).cpu()
    rows = (len(mask), -1, mask.shape[-1])
    return heat.reshape(rows), mask.reshape(rows)


def _gallery_images(labels: Tensor) -> Tensor:
    """Select the first images of each class, the same number of each."""
    classes = labels.unique()
    each = max(1, _GALLERY_IMAGES // len(classes))
    return torch.cat([(labels == label).nonzero()[:each, 0] for label in classes]).sort().values


def _joined(scores: list[Localization]) -> Localization:
    def join(parts: list[LocalizationScore]) -> LocalizationScore:
        names = ("pointing", "energy", "precision")
        return LocalizationScore(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    positive, negative = (
        join([score.positive for score in scores]),
        join([score.negative for score in scores]),
    )
    return Localization(positive, negative, torch.cat([score.chance for score in scores]))


def _check(classifier: Classifier, task: Task, text: str) -> None:
    """Raise `BadData` unless the model can predict the classes of the task."""
    classes, shape = list(classifier.hparams["classes"]), tuple(classifier.hparams["shape"])
    if list(task.classes) != classes:
        message = f"the model predicts {_summary(classes)}, but {text!r} has {_summary(task.classes)}"
        raise BadData(message, owner=text, option="classes", value=list(task.classes), choices=classes)
    if task.shape == shape:
        return
    try:
        predict(classifier, task.test.images[:1])
    except (RuntimeError, ValueError, AssertionError) as error:
        message = f"the model expects images of shape {shape}, but those of {text!r} are {task.shape}"
        raise BadData(message, owner=text, option="shape", value=task.shape) from error


def _summary(names: Sequence[str]) -> str:
    """Name up to five classes.

    Example:
        >>> _summary(["cat", "dog"]), _summary("abcdefg")
        ("2 classes ('cat', 'dog')", "7 classes ('a', 'b', 'c', 'd', 'e', ...)")
    """
    listed = [*map(repr, names[:5]), *(["..."] if len(names) > 5 else [])]
    return f"{len(names)} classes ({', '.join(listed)})"
