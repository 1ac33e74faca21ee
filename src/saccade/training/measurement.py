"""The error of a trained model on a split, with what it is computed from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data import Split
from saccade.errors import BadRun
from saccade.metrics import boundary_f1, confusion_matrix, dice, mean_iou
from saccade.results import SegmentationScore
from saccade.training.module import Classifier
from saccade.training.objectives.segment import Segment

_BATCH = 100
_BATCH_OF_PIXELS = 10


@dataclass(frozen=True)
class Measurement:
    """What a model gets right on a split.

    Attributes:
        error: Fraction of the images that are misclassified; for segmentation, one minus the mean IoU.
        loss: Mean loss of the images.
        confusion: Number of images or pixels of each class, in rows, by their prediction, in columns.
        segmentation: Further metrics of a segmentation.
    """

    error: float
    loss: float
    confusion: Tensor
    segmentation: SegmentationScore | None = None


@torch.inference_mode()
def measure(classifier: Classifier, split: Split) -> Measurement:
    """Measure a model on a split.

    Raises:
        BadRun: The loss is not finite, because training diverged.
    """
    if isinstance(classifier, Segment):
        measured = _segmentation(classifier, split)
    else:
        measured = _classification(classifier, split)
    if not math.isfinite(measured.loss):
        problem = f"training diverged: the test loss is {measured.loss}; lower learning_rate or set grad_clip"
        raise BadRun(problem, owner="train", option="loss", value=measured.loss)
    return measured


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the logits of images, `(N, classes)` or `(N, classes, H, W)`, on the CPU."""
    return torch.cat([classifier(batch) for batch in batches(classifier, images)]).cpu()


def batches(classifier: Classifier, images: Tensor) -> Iterator[Tensor]:
    """Yield images in batches on the device of a model."""
    return (part.to(classifier.device) for part in images.split(batch_size(classifier)))


def batch_size(classifier: Classifier) -> int:
    """Return the number of images that a model is evaluated on at a time."""
    return _BATCH_OF_PIXELS if isinstance(classifier, Segment) else _BATCH


def _classification(classifier: Classifier, split: Split) -> Measurement:
    logits = predict(classifier, split.images)
    predictions, labels = logits.argmax(1), split.labels
    return Measurement(
        error=(predictions != labels).double().mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
        confusion=confusion_matrix(predictions, labels, logits.shape[1], ignored=-1),
    )


def _segmentation(classifier: Segment, split: Split) -> Measurement:
    losses, confusion, boundaries = 0.0, torch.zeros((), dtype=torch.int64), []
    parts = split.labels.split(batch_size(classifier))
    for images, labels in zip(batches(classifier, split.images), parts, strict=True):
        logits = classifier(images).cpu()
        measured = classifier.measure(logits, labels)
        losses += measured["loss"].item() * len(labels)
        confusion = confusion + measured["confusion"]
        boundaries.append(boundary_f1(logits.argmax(1), labels, classifier.classes))
    iou = mean_iou(confusion)
    scores: SegmentationScore = {
        "mean_iou": iou,
        "dice": dice(confusion).nanmean().item(),
        "boundary_f1": torch.cat(boundaries).nanmean().item(),
    }
    return Measurement(1 - iou, losses / len(split), confusion, scores)
