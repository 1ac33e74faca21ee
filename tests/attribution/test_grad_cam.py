"""Grad-CAM: its formula, frozen weights and integer images, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import grad_cam, last_layer
from saccade.models import SmallCNN
from support.errors import raises


def test_grad_cam_is_its_formula() -> None:
    torch.manual_seed(0)
    model = SmallCNN(4).double().eval()
    images = torch.rand(3, 3, 40, 32, dtype=torch.float64)
    target = [2, 0, 3]
    for layer, index in (("stages.1", 1), (None, 2)):
        x = images
        for stage in model.stages[: index + 1]:
            x = stage(x)
        x = x.detach().requires_grad_()
        y = x
        for stage in model.stages[index + 1 :]:
            y = stage(y)
        y = model.head(y.mean((2, 3)))
        (gradient,) = torch.autograd.grad(y[range(3), target].sum(), x)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * x).sum(1))
        with torch.inference_mode():
            heat = grad_cam(model, images, layer, target).weights
        torch.testing.assert_close(heat, expected)
        assert heat.any()
    predicted = model(images).argmax(1)
    torch.testing.assert_close(
        grad_cam(model, images).weights, grad_cam(model, images, target=predicted).weights
    )


def test_grad_cam_sees_through_frozen_weights_integers_and_operations_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2))
    levels = torch.randint(0, 255, (2, 3, 9, 9), dtype=torch.uint8)
    model(levels.float())
    model.requires_grad_(False)
    assert grad_cam(model, levels, layer="0").weights.shape == (2, 7, 7)
    assert torch.equal(grad_cam(model, levels).weights, grad_cam(model, levels.float()).weights)


@pytest.mark.parametrize(
    ("options", "error", "fields"),
    [
        ({"layer": "stage.1"}, sc.UnknownName, {"kind": "module", "value": "stage.1"}),
        ({"layer": "head"}, sc.BadShape, {"option": "layer", "value": "head"}),
        ({"layer": "attention"}, sc.BadOption, {"option": "layer", "value": "attention"}),
        ({"target": 3}, sc.BadOption, {"option": "target", "value": 3}),
        ({"target": [0]}, sc.BadOption, {"option": "target", "value": [0]}),
        ({"target": [0.5, 1.0]}, sc.BadOption, {"option": "target", "value": [0.5, 1.0]}),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[sc.SaccadeError], fields: dict[str, Any]) -> None:
    with raises(error, owner="grad_cam", **fields):
        grad_cam(SmallCNN(3), torch.rand(2, 3, 16, 16), **options)


def test_the_model_must_return_maps_and_scores() -> None:
    with raises(sc.BadShape, owner="grad_cam", option="model", value="Sequential"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))
    with raises(sc.BadShape, owner="grad_cam", option="target", value=(144,)):
        grad_cam(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Flatten(0)), torch.rand(1, 3, 8, 8))


def test_scores_that_do_not_depend_on_the_layer_are_refused() -> None:
    class Ignores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            y: Tensor = self.head(x.mean((2, 3)))
            return y

    with raises(sc.BadOption, owner="grad_cam", option="layer", value="conv"):
        grad_cam(Ignores(), torch.rand(1, 3, 8, 8))
    with raises(sc.BadOption, owner="last_layer", option="layer", value="conv"):
        last_layer(Ignores(), torch.rand(1, 3, 8, 8))
