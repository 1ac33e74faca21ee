"""The recipes of `examples/` for trainers of other libraries, and the integrations behind them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import saccade as sc
from saccade.integrations.ultralytics import AttachAttention
from support.errors import raises

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")


def example(name: str, *libraries: str) -> Any:
    for library in libraries:
        pytest.importorskip(library, reason=f"the recipe {name} needs {library}")
    return importlib.import_module(name)


# ---------------------------------------------------------------------------------------------- ultralytics


class Trainer:
    """Builds networks like a trainer of ultralytics."""

    args = SimpleNamespace(imgsz=16)

    def get_model(self, _cfg: Any = None, weights: Any = None, _verbose: bool = True) -> nn.Module:
        model: Any = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        model.load = lambda other: model.load_state_dict(other.state_dict())
        if weights:
            model.load_state_dict(weights.state_dict(), strict=False)
        return model  # type: ignore[no-any-return]


def test_a_trainer_attaches_and_loads_the_weights_of_attention() -> None:
    class Attaching(AttachAttention, Trainer):
        attention = "se:reduction=4@0+2"
        identity = False

    first = Attaching().get_model()
    assert [a.path for a in sc.attached(first)] == ["0.attention", "2.attention"]
    again = Attaching().get_model(None, first)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.eval()(x), first.eval()(x))


def test_a_trainer_without_attention_is_refused() -> None:
    class Forgotten(AttachAttention, Trainer):
        pass

    with raises(sc.BadOption, owner="Forgotten", option="attention", value=""):
        Forgotten().get_model()


def data_set(folder: Path) -> str:
    """Write four images with a box each for training, and as many for validation."""
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / part / f"{i}.png")
            (folder / "labels" / part / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    text = f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [square]\n"
    (folder / "data.yaml").write_text(text)
    return str(folder / "data.yaml")


def test_yolo_trains_predicts_validates_and_exports_with_attention(tmp_path: Path) -> None:
    recipe = example("attach_ultralytics", "ultralytics", "polars")
    data = data_set(tmp_path / "data")
    checkpoint = recipe.train(data, tmp_path / "out", epochs=1, size=64)
    yolo = recipe.YOLO(checkpoint)
    places = sc.attached(yolo.model)
    assert len(places) == 13
    assert all(place.runs and place.gate != 0 for place in places)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = recipe.YOLO(checkpoint).model.float().eval()(x)[0]
        fused = recipe.YOLO(checkpoint).model.float().eval().fuse(verbose=False)
        torch.testing.assert_close(fused(x)[0], expected, atol=1e-3, rtol=1e-4)
    assert all(place.runs for place in sc.attached(fused))
    with raises(sc.NothingRecorded, owner="record", value="DetectionModel"), sc.record(yolo.model):
        yolo.predict(x, verbose=False, device="cpu", imgsz=64)
    predicting = yolo.predictor.model.backend.model  # a copy, fused
    assert len([p for p in sc.attached(predicting) if p.runs]) == 13
    yolo.val(data=data, imgsz=64, workers=0, plots=False, device="cpu", project=str(tmp_path), verbose=False)
    exported = torch.jit.load(yolo.export(format="torchscript", imgsz=64, device="cpu"))
    with torch.no_grad():
        torch.testing.assert_close(exported(x), expected, atol=1e-3, rtol=1e-4)

    further = recipe.YOLO(checkpoint)
    gates = [place.gate for place in sc.attached(further.model)]
    rebuilt = recipe.CBAMTrainer.get_model(
        SimpleTrainer(recipe.CBAMTrainer), cfg="yolo11n.yaml", weights=further.model, verbose=False
    )
    assert [place.gate for place in sc.attached(rebuilt)] == gates


def SimpleTrainer(kind: Any) -> Any:  # noqa: N802
    """Return a trainer that can build a network, without a run."""
    trainer = object.__new__(kind)
    trainer.data = {"nc": 1, "channels": 3, "names": ["square"]}
    trainer.args = SimpleNamespace(imgsz=64)
    return trainer


# --------------------------------------------------------------------------------------------- transformers


def test_the_recipe_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("attach_transformers", "transformers").main(["--out", str(tmp_path)])
    planned, listed = capsys.readouterr().out.split("mechanism", 1)
    assert planned.count("class token alone") == 2  # behind the last attention
    assert listed.count("cbam") == 2
    assert "NO" not in listed


def test_a_checkpoint_of_transformers_holds_its_attention(tmp_path: Path) -> None:
    recipe = example("attach_transformers", "transformers")
    integration, model, x = recipe.attention, recipe.build().eval(), torch.rand(2, 3, 32, 32)
    inputs = {"pixel_values": x}
    integration.attach(model, "cbam:reduction=4", example_inputs=inputs)
    integration.attach(model, "se:reduction=4", where="head", example_inputs=inputs, identity=False)
    integration.attach(model, "eca", where=["vit.layers.1"], example_inputs=inputs, dry_run=True)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(".gate"):
                p.fill_(0.3)
    expected = model(x).logits
    model.save_pretrained(tmp_path)
    for kind in (type(model), importlib.import_module("transformers").AutoModelForImageClassification):
        loaded = integration.from_pretrained(kind, tmp_path)
        assert type(loaded) is type(model)
        assert torch.equal(loaded(x).logits, expected)
        assert sc.attached(loaded) == sc.attached(model)
        assert [entry["mechanism"] for entry in loaded.config.saccade] == ["cbam", "cbam", "se"]
    half = integration.from_pretrained(type(model), tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half(x.bfloat16()).logits.dtype == torch.bfloat16


def test_a_checkpoint_of_transformers_without_attention_is_refused(tmp_path: Path) -> None:
    recipe = example("attach_transformers", "transformers")
    integration, model, x = recipe.attention, recipe.build(), torch.rand(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    with raises(sc.BadData, owner=str(tmp_path), option="saccade"):
        integration.from_pretrained(type(model), tmp_path)
    plain = recipe.build()
    integration.attach(model, "se:reduction=4", example_inputs={"pixel_values": x})
    plain.config.saccade = model.config.saccade
    plain.save_pretrained(tmp_path)
    with raises(sc.BadData, owner=str(tmp_path), option="weights"):
        integration.from_pretrained(type(model), tmp_path)


def test_the_recipe_of_the_trainer_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example("attach_trainer", "transformers", "accelerate").main(["--out", str(tmp_path)])
    places = [line for line in capsys.readouterr().out.splitlines() if ".layer.attention " in line]
    assert len(places) == 2
    assert all(line.endswith("yes") for line in places)
    assert not any(" 0 " in line for line in places)  # the gates, which have trained


# -------------------------------------------------------------------------------------------------- others


def test_the_recipe_of_detection(capsys: pytest.CaptureFixture[str]) -> None:
    example("attach_detection").main(64)
    assert "16 of 16 attachments run" in capsys.readouterr().out


def test_the_recipe_of_lightning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("attach_lightning", "lightning").main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("model.layer") == 4
    assert "NO" not in printed


def test_the_recipe_of_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("attach_timm").main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "22 of 22 attachments run merged" in printed
    assert "NO" not in printed
