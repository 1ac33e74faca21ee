"""Test the metrics of segmentation against scikit-learn, and the boundaries against distances in loops."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix as count
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from saccade.metrics import boundary_f1, confusion_matrix, dice, iou, mean_iou


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels, predictions = torch.randint(4, (2, 3, 9, 7), generator=generator)
    labels[:, 0] = 255
    return predictions, labels.to(torch.uint8)


def test_counts_iou_and_dice_equal_those_of_scikit_learn(answers: tuple[Tensor, Tensor]) -> None:
    predictions, labels = answers
    confusion = confusion_matrix(predictions, labels, classes=4)
    counted = labels != 255
    true, predicted = labels[counted].numpy(), predictions[counted].numpy()
    assert confusion.tolist() == count(true, predicted).tolist()
    assert iou(confusion).tolist() == pytest.approx(jaccard_score(true, predicted, average=None))
    assert dice(confusion).tolist() == pytest.approx(f1_score(true, predicted, average=None))
    assert mean_iou(confusion) == pytest.approx(jaccard_score(true, predicted, average="macro"))


def test_a_class_that_is_nowhere_does_not_count() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert iou(confusion).isnan().tolist() == [False, False, True]
    assert mean_iou(confusion) == pytest.approx((3 / 4 + 4 / 5) / 2)


def _boundary_f1_in_loops(predicted: Tensor, true: Tensor, number: int) -> float:
    height, width = true.shape
    reach = max(1.0, 0.0075 * math.hypot(height, width))

    def edge(x: Tensor) -> list[tuple[int, int]]:
        found = []
        for r in range(height):
            for c in range(width):
                if x[r, c] != number or true[r, c] == 255:
                    continue
                near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
                inside = [(i, j) for i, j in near if 0 <= i < height and 0 <= j < width and true[i, j] != 255]
                if any(x[i, j] != number for i, j in inside):
                    found.append((r, c))
        return found

    edges = edge(predicted), edge(true)
    if not any(edges):
        return math.nan
    shares = []
    for own, other in (edges, edges[::-1]):
        hits = sum(any(math.dist(p, q) <= reach for q in other) for p in own)
        shares.append(hits / max(1, len(own)))
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def test_the_boundary_score_equals_distances_in_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(3, (2, 4, 5, 6), generator=generator)
    labels, predictions = (x.repeat_interleave(4, 1).repeat_interleave(4, 2) for x in coarse)
    labels[:, 5:9, 5:9] = 255
    found = boundary_f1(predictions, labels, classes=4)
    expected = [
        [_boundary_f1_in_loops(p, t, c) for c in range(4)] for p, t in zip(predictions, labels, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert found[:, 3].isnan().all()


def test_a_shift_within_the_tolerance_costs_nothing() -> None:
    labels = torch.zeros(1, 200, 200, dtype=torch.long)
    labels[:, 50:150, 50:150] = 1
    assert boundary_f1(labels.roll(2, 1), labels, classes=2).tolist() == [[1.0, 1.0]]
    assert (boundary_f1(labels.roll(9, 1), labels, classes=2) < 0.95).all()
