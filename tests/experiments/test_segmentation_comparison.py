"""Test a comparison of segmentations as a user sees it: trained, scored, looked at, and reported."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from saccade.cli import main
from saccade.errors import BadOption, UnknownName
from saccade.models import load_backbone, split_source
from support.browser import chromium
from support.errors import raises
from support.segmentation import disc, write_discs

ATTENTIONS = ("none", "attention_gate", "se:reduction=2")


def call(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("segmentation")
    out = root / "compared"
    command = ["compare", f"segmentation:{write_discs(root / 'discs', 12)},size=32", "--seeds", "1"]
    for attention in ATTENTIONS:
        command += ["-a", attention]
    for setting in ("backbone=unet:width=4,levels=2", "batch_size=4", "epochs=5", "learning_rate=0.02"):
        command += ["--set", setting]
    assert call(*command, "--logger", "none", "--out", str(out)) == 0
    assert call("score", str(out / "runs" / "attention_gate-seed0"), "--images", "3", "--steps", "4") == 0
    assert call("report", str(out)) == 0
    return out


def test_the_leaderboard_has_the_metrics_of_segmentation(comparison: Path) -> None:
    results = json.loads((comparison / "results.json").read_text())
    assert results["task"]["segmentation"] is True
    assert [row["attention"] for row in results["leaderboard"]] == [*ATTENTIONS]
    for row in results["leaderboard"]:
        assert row["error"]["mean"] == pytest.approx(1 - row["segmentation"]["mean_iou"]["mean"])
        assert row["error"]["mean"] < 0.4
        assert 0.5 < row["segmentation"]["dice"]["mean"] <= 1
    with (comparison / "leaderboard.csv").open() as file:
        first, *_ = csv.DictReader(file)
    assert {"segmentation_dice_mean", "segmentation_boundary_f1_mean"} <= first.keys()


def test_grad_cam_explains_the_foreground(comparison: Path) -> None:
    result = json.loads((comparison / "runs" / "attention_gate-seed0" / "result.json").read_text())
    assert set(result["scores"]) >= {"attention", "grad_cam", "random"}
    localization = result["scores"]["grad_cam"]["localization"]
    assert localization["positive"]["precision"] > 0.6 > localization["negative"]["precision"]


def test_the_report_draws_both_outlines_and_the_iou(comparison: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((comparison / "report.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        expect(page.locator("th", has_text="Dice")).to_be_visible()
        expect(page.locator(".shots .badge").first).to_have_text(re.compile(r"IoU \d\.\d\d"))
        assert page.locator(".badge.wrong, .badge.right, [data-filter=wrong]").count() == 0
        tiles = page.locator(".shots .tile svg")
        drawn = tiles.evaluate_all("all => all.map(svg => svg.querySelectorAll('.predicted.over').length)")
        assert len(drawn) == 3 * 2  # test images
        assert set(drawn) == {1}
        first = tiles.first.locator(".predicted.over")
        assert first.get_attribute("d") != tiles.first.locator(".outline.over").get_attribute("d")
        page.locator("[data-control=segments]").uncheck()
        assert page.locator(".predicted").count() == 0
        assert page.locator(".shots .outline.over").count() == len(drawn)
        assert page.locator(".hero .outline.over").count() == page.locator(".hero .tile").count() > 0
        assert said == []
        browser.close()


def test_look_outlines_the_prediction(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = comparison / "runs" / "attention_gate-seed0"
    pixels, mask = disc(99)
    Image.fromarray(pixels).save(tmp_path / "new.png")
    out = tmp_path / "looked"
    assert call("look", str(run), str(tmp_path / "new.png"), "--out", str(out), "--alpha", "0") == 0
    share = re.search(r"new: foreground (\d+)%", capsys.readouterr().out)
    assert share is not None
    assert abs(int(share[1]) / 100 - mask.mean()) < 0.1
    drawn = np.asarray(Image.open(next(out.glob("*gates.1*.png"))).convert("RGB"))
    assert (drawn == (255, 197, 61)).all(2).any()
    assert call("look", str(run), "--images", "2", "--out", str(tmp_path / "test")) == 0


def test_evaluate_prints_the_error_without_an_interval(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", str(comparison / "runs" / "none-seed0")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "one minus the mean IoU; chance" in printed


class TestModelsOfSmp:
    def test_names(self) -> None:
        assert split_source("smp:Unet") == ("smp", "Unet", {})
        assert split_source("smp:Unet:resnet18") == ("smp", "Unet:resnet18", {})
        assert split_source("smp:Unet:encoder_depth=3") == ("smp", "Unet", {"encoder_depth": 3})

    def test_attention_in_its_decoder_learns(self, tmp_path: Path) -> None:
        pytest.importorskip("segmentation_models_pytorch", reason="the extra `segmentation` is not installed")
        command = ["train", f"segmentation:{write_discs(tmp_path / 'discs', 8)},size=32", "--epochs", "1"]
        command += [
            "-a",
            "se@decoder.blocks.*",
            "--set",
            "batch_size=4",
            "--set",
            "backbone=smp:Unet:resnet18",
        ]
        assert call(*command, "--logger", "none", "--out", str(tmp_path / "run")) == 0
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["segmentation"]["mean_iou"] == pytest.approx(1 - result["error"])

    def test_mistakes(self) -> None:
        pytest.importorskip("segmentation_models_pytorch", reason="the extra `segmentation` is not installed")
        with raises(UnknownName, value="Unett"):
            load_backbone("smp:Unett")
        with raises(UnknownName, value="resnet81"):
            load_backbone("smp:Unet:resnet81")
        with raises(BadOption, option="options"):
            load_backbone("smp:Unet:resnet18:depth=3")
        with raises(BadOption, option="pretrained", value=True):
            load_backbone("smp:Unet:resnet18", pretrained=True)
