"""LeGrad: equal to its formula on the weights themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.attribution import legrad
from saccade.models import SmallCNN
from support.errors import raises
from support.transformers import WAYS, Transformer

TARGET = [3, 1]


def reference(model: Any, images: Tensor, start: int = 0) -> Tensor:
    model.set_way("kept")
    total = torch.zeros(())
    for last in range(start, len(model.blocks)):
        x = model.patches(images).flatten(2).mT
        if model.kind == "class":
            x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1)
        for block in model.blocks[: last + 1]:
            x = block(x)
        scores = model.head(x[:, 0] if model.kind == "class" else x.mean(1))
        weights = model.blocks[last].attn.weights
        (gradient,) = torch.autograd.grad(scores[range(2), TARGET].sum(), weights)
        total = total + gradient.clamp(min=0).mean((1, 2))[:, -15:]
    return total.reshape(2, 3, 5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["class", "mean"])
def test_legrad_is_its_formula(kind: str, way: str) -> None:
    torch.manual_seed(0)
    model = Transformer(kind, way).double()
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    heat = legrad(model, images, TARGET).weights
    last = legrad(model, images, TARGET, start_layer=-1).weights
    torch.testing.assert_close(heat, reference(model, images), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(last, reference(model, images, 2), rtol=1e-9, atol=1e-12)
    assert heat.flatten(1).std(1).min() > 0


def test_bad_input() -> None:
    model = Transformer("queries")
    with raises(sc.BadShape, owner="legrad", option="model", value="Transformer"):
        legrad(model, torch.rand(1, 3, 8, 8))
    with raises(sc.NothingRecorded, owner="legrad", value="SmallCNN"):
        legrad(SmallCNN(2), torch.rand(1, 3, 32, 32))
    with raises(sc.BadOption, owner="legrad", option="start_layer", value=-4):
        legrad(Transformer("class"), torch.rand(1, 3, 8, 8), start_layer=-4)
