"""Every drop-in mechanism trains by name in a slot of the small CNN, and its map is scored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import saccade as sc
from saccade.config import Recipe, resolve
from saccade.models import SmallCNN
from saccade.results import POLARITIES, read_gallery
from saccade.training import build, load_checkpoint, train
from support.errors import raises

DROP_INS = [name for name in sc.mechanisms() if sc.spec(name).drop_in]
TASK = "white-patch:size=32,patch=[6,12],train=24,validation=8,test=8"


@pytest.mark.parametrize("name", DROP_INS)
def test_an_epoch_by_name(name: str, tmp_path: Path) -> None:
    options = ",".join(f"{option}={value}" for option, value in sc.spec(name).examples[0].options.items())
    attention = f"{name}:{options}" if options else name
    recipe = Recipe(task=TASK, attention=attention, epochs=1, batch_size=8)
    result = train(recipe, tmp_path)
    assert math.isfinite(result["loss"])
    assert result == json.loads((tmp_path / "result.json").read_text())

    where: Any = result["localization"]
    assert where is not None
    assert where["path"].startswith("attention.2")
    for polarity in POLARITIES:
        assert all(0 <= value <= 1 for value in where[polarity].values()), where
    gallery = read_gallery(tmp_path)
    assert gallery.map is not None
    assert gallery.kind == gallery.map.kind == where["kind"]
    heat = gallery.map.heatmap()
    assert len(heat) == 8
    assert heat.isfinite().all()
    assert heat.min() >= 0
    assert heat.max() <= 1

    torch.manual_seed(recipe.seed)
    start = {
        key: p
        for key, p in build(resolve(recipe), 2, (3, 32, 32)).named_parameters()
        if key.startswith("attention.")
    }
    after = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    moved = [key for key, p in start.items() if not torch.equal(p, after[f"model.{key}"])]
    assert moved or not start, f"no weight of {name} was trained"


@pytest.mark.parametrize("name", [name for name in sc.mechanisms() if name not in DROP_INS])
def test_what_is_no_drop_in_is_refused_with_its_name(name: str) -> None:
    with raises(sc.BadOption) as caught:
        SmallCNN(2, attention={2: name})
    assert str(caught.value).startswith(f"{name} ")
    assert "SmallCNN" in str(caught.value)


def test_there_are_some_of_both() -> None:
    assert {"cbam", "channel_gate", "multi_head", "se", "spatial_gate"} <= {*DROP_INS}
    assert "scaled_dot_product" not in DROP_INS
