"""Metrics of segmentation: IoU and Dice of each class from a confusion matrix, and the boundary F-score."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_Mask = NDArray[np.bool_]

_TOLERANCE = 0.0075  # of the diagonal of the image, as in the benchmark of the paper


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int, ignored: int = 255) -> Tensor:
    """Count the pixels of each class, in rows, by their predicted class, in columns.

    Args:
        predictions: Predicted classes.
        labels: True classes; pixels with `ignored` are not counted.
        classes: Number of classes.
        ignored: The label of pixels without a class.

    Shape:
        - predictions, labels: `(..., H, W)`
        - Output: int64 `(classes, classes)`

    Example:
        >>> confusion_matrix(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]), classes=2)
        tensor([[1, 1],
                [0, 0]])
    """
    counted = labels != ignored
    pairs = labels[counted].long() * classes + predictions[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def iou(confusion: Tensor) -> Tensor:
    """Return the intersection over union of each class, NaN for a class that is neither true nor predicted.

        IoU_c = n_cc / (sum_d n_cd + sum_d n_dc - n_cc)

    Shape:
        - confusion: `(classes, classes)`, see `confusion_matrix`.
        - Output: float64 `(classes,)`

    Example:
        >>> iou(torch.tensor([[3, 1], [0, 0]]))
        tensor([0.7500, 0.0000], dtype=torch.float64)
    """
    right, counted = _right_and_counted(confusion)
    return right / (counted - right)


def dice(confusion: Tensor) -> Tensor:
    """Return the Dice coefficient of each class, NaN for a class that is neither true nor predicted.

        Dice_c = 2 n_cc / (sum_d n_cd + sum_d n_dc)

    Shape:
        - confusion: `(classes, classes)`, see `confusion_matrix`.
        - Output: float64 `(classes,)`
    """
    right, counted = _right_and_counted(confusion)
    return 2 * right / counted


def mean_iou(confusion: Tensor) -> float:
    """Return the mean IoU of the classes that have a true or a predicted pixel."""
    return float(iou(confusion).nanmean())


def boundary_f1(predictions: Tensor, labels: Tensor, classes: int, ignored: int = 255) -> Tensor:
    """Return the F-score of the boundaries of each class in each image.

        F = 2 P R / (P + R)

    The precision P is the fraction of the predicted boundary within a distance of the true boundary, the
    recall R the fraction of the true boundary within this distance of the predicted one. The distance is
    0.75% of the diagonal of the image, at least one pixel. The boundary of a class are its pixels with a
    neighbor of another class, above, below, left or right. Pixels without a class have no boundary.

    References:
        Csurka, Larlus, Perronnin. What is a good evaluation measure for semantic segmentation? BMVC 2013.

    Args:
        predictions: Predicted classes.
        labels: True classes.
        classes: Number of classes.
        ignored: The label of pixels without a class.

    Shape:
        - predictions, labels: `(B, H, W)`
        - Output: float64 `(B, classes)`, NaN where a class has neither boundary.

    Example:
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.long)
        >>> labels[:, :, 4:] = 1
        >>> boundary_f1(labels, labels, classes=2)
        tensor([[1., 1.]], dtype=torch.float64)
        >>> boundary_f1(torch.zeros_like(labels), labels, classes=2)
        tensor([[0., 0.]], dtype=torch.float64)
    """
    counts = labels != ignored
    reach = max(1.0, _TOLERANCE * math.hypot(*labels.shape[1:]))
    scores = torch.full((len(labels), classes), math.nan, dtype=torch.float64)
    for row, predicted, true, counted in zip(scores, predictions, labels, counts.numpy(), strict=True):
        for number in range(classes):
            edges = [_boundary((x == number).numpy(), counted) for x in (predicted, true)]
            if not any(edge.any() for edge in edges):
                continue
            near = [_distance(edge) <= reach for edge in edges]
            hits = [int((edge & close).sum()) for edge, close in zip(edges, near[::-1], strict=True)]
            precision, recall = (hit / max(1, int(edge.sum())) for hit, edge in zip(hits, edges, strict=True))
            row[number] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


def _right_and_counted(confusion: Tensor) -> tuple[Tensor, Tensor]:
    confusion = confusion.double()
    return confusion.diagonal(), confusion.sum(0) + confusion.sum(1)


def _boundary(mask: _Mask, counted: _Mask) -> _Mask:
    """Return the pixels of a mask with a counted neighbor outside it."""
    inside: _Mask = ndimage.binary_erosion(mask | ~counted, border_value=1)
    return mask & counted & ~inside


def _distance(edge: _Mask) -> NDArray[np.float64]:
    """Return the distance of each pixel to the nearest one of an edge; infinite if there is none."""
    if not edge.any():
        return np.full(edge.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~edge)
    return distance
