"""Explanations by name, and their comparison by the same tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import compare_explanations, explain, grad_cam, legrad, relevance
from saccade.models import SmallCNN
from support.errors import raises
from support.transformers import Transformer


class Corner(nn.Module):
    """A classifier whose class 1 is the brightness of one corner."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Linear(4, 2)
        nn.init.constant_(self.conv.weight, 1.0)
        nn.init.constant_(self.head.bias, 0.0)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-0.2] * 4, [0.2] * 4]))

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        scores: Tensor = self.head(features[:, :, :4, :4].mean((2, 3)))
        return scores


def test_the_faithful_explanation_comes_first() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 12, 12) / 5
    images[:, :, :4, :4] += 0.8
    images[:, :, 5:, 5:] += 0.8  # bright, too, but of no influence
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[:, :4, :4] = True
    target = torch.tensor([1, 1])
    scores = compare_explanations(
        Corner(), images, ["eigen_cam", "hires_cam"], target=target, masks=masks, steps=12
    )
    assert list(scores) == ["hires_cam", "eigen_cam"]
    best, other = scores.values()
    assert best.auc_gain > max(0.02, other.auc_gain)
    assert best.road > other.road
    assert best.precision == 1.0
    assert best.chance == pytest.approx(1 / 9)
    assert abs(best.sanity) <= 1


def test_all_that_a_model_has_are_compared() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16)
    scores = compare_explanations(Transformer("class"), images, steps=4)
    assert set(scores) == {
        *("rollout", "relevance", "legrad", "grad_cam", "grad_cam++", "hires_cam", "layer_cam", "eigen_cam"),
        "guided_grad_cam",
    }
    cnn = compare_explanations(SmallCNN(2), images, steps=4)
    assert "relevance" not in cnn
    assert "grad_cam" in cnn
    with pytest.raises(sc.NothingRecorded):
        compare_explanations(SmallCNN(2), images, ["relevance"])
    with raises(sc.BadShape, owner="compare_explanations", option="model", value=(1, 4, 14, 14)):
        compare_explanations(nn.Conv2d(3, 4, 3), images)
    with raises(sc.BadOption, owner="compare_explanations", option="model", value="Flat"):
        compare_explanations(Flat(), images)


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_names_stand_for_functions() -> None:
    model, images = Transformer("class"), torch.rand(2, 3, 16, 16)
    for name, function in (("relevance", relevance), ("legrad", legrad), ("grad_cam", grad_cam)):
        expected: Any = function(model, images, target=1)
        assert torch.equal(explain(model, images, name, 1).weights, expected.weights)  # type: ignore[arg-type]
    with sc.record(model) as maps:
        model(images)
    torch.testing.assert_close(explain(model, images, "rollout").weights, maps.rollout().weights)
    with raises(sc.BadOption, owner="explain", option="layer", value="head"):
        explain(model, images, "relevance", layer="head")
    with raises(sc.BadOption, owner="explain", option="method", value="cam"):
        explain(model, images, "cam")  # type: ignore[arg-type]
