"""ROAD: the system of the imputation, both orders, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.metrics import evaluate_road
from support.errors import raises


def test_imputed_pixels_are_the_weighted_means_of_their_neighbors() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    heat = torch.rand(2, 7, 9)
    seen: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean((2, 3))

    evaluate_road(predict, images, heat, shares=[0.4], noise=0.0, target=torch.tensor([0, 1]))
    for imputed, sign in zip(seen, (1, -1), strict=True):
        for image in range(2):
            removed = (sign * heat[image]).flatten().argsort(descending=True)[: round(0.4 * 63)]
            for p in range(63):
                y, x = divmod(p, 9)
                if p not in removed:
                    assert torch.equal(imputed[image, :, y, x], images[image, :, y, x])
                    continue
                total, mean = 0.0, torch.zeros(3, dtype=torch.float64)
                for dy, dx in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]:
                    if 0 <= y + dy < 7 and 0 <= x + dx < 9:
                        weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                        total += weight
                        mean += weight * imputed[image, :, y + dy, x + dx]
                torch.testing.assert_close(imputed[image, :, y, x], mean / total, rtol=1e-9, atol=1e-12)


def test_a_true_map_scores_more_than_its_inverse_and_a_constant_one() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 12, 12)
    truth = torch.zeros(4, 12, 12)
    truth[:, 3:6, 3:6] = 1
    images[:, 0][truth > 0] += 2

    def predict(x: Tensor) -> Tensor:
        return (x[:, 0] * truth[:1]).sum((1, 2))[:, None] / 27

    scores = [evaluate_road(predict, images, heat).score.mean() for heat in (truth, 0 * truth, -truth)]
    assert scores[0] > scores[1] + 0.05 > scores[2] + 0.1
    torch.testing.assert_close(scores[0], -scores[2], atol=0.05, rtol=0)
    first, again = (evaluate_road(predict, images, truth, seed=1).mean() for _ in range(2))
    assert first == again
    pairs = zip(first["least_relevant_first"], first["most_relevant_first"], strict=True)
    assert first["score"] == pytest.approx(sum(a - b for a, b in pairs) / 8)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"shares": []}, {"option": "shares", "value": []}),
        ({"shares": [1.0]}, {"option": "shares", "value": [1.0]}),
        ({"target": torch.tensor([3])}, {"option": "target", "value": 3}),
        ({"heatmap": torch.full((1, 4, 4), torch.nan)}, {"option": "heatmap", "value": 16}),
    ],
)
def test_bad_input(options: dict[str, Any], fields: dict[str, Any]) -> None:
    arguments = {"images": torch.rand(1, 3, 4, 4), "heatmap": torch.rand(1, 4, 4)} | options
    with raises(sc.BadOption, owner="evaluate_road", **fields):
        evaluate_road(lambda x: x.mean((2, 3)), **arguments)
