"""A folder of photographs and a network of timm, by one command: its answer, and the code that it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import saccade as sc
from saccade.cli import main
from saccade.config import Recipe, folder_name
from saccade.files import write_json
from saccade.results import BASELINE, SearchResults, read_search
from saccade.search import FINALISTS
from saccade.training import restore

CHANNELS = [16, 32, 64, 64]  # a quarter of the usual ones, to be quick
BACKBONE = f"timm:resnet18:channels={CHANNELS}".replace(" ", "")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Reddish and greenish images, 24 of each."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("fox", "frog")):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(24):
            pixels = generator.integers(0, 155, (40, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(tmp_path / "photographs" / name / f"{number}.png")
    return tmp_path / "photographs"


def run(
    photographs: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run the command in this process, and return what it prints."""
    words = f"-a eca -a se --where residual --backbone {BACKBONE} --budget 7runs --out {out}"
    words += " --finalists 1 --seeds 2 --epochs 2 --batch-size 14"
    monkeypatch.setattr(sys, "argv", ["saccade", "search", f"folder:{photographs},size=32", *words.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    output, errors = capsys.readouterr()
    assert caught.value.code == 0, errors
    return output


def let_win(out: Path, finalist: str) -> None:
    """Give the finalist fewer test errors than the network without attention."""
    for path in (out / FINALISTS / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        assert result["attention"] in (BASELINE, finalist)
        result["error"] = {BASELINE: 0.45, finalist: 0.05}[result["attention"]]
        write_json(path, result)


def test_a_network_of_timm_on_a_folder_of_photographs(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    output = run(photographs, out, monkeypatch, capsys)
    results: SearchResults = read_search(out)
    (finalist,) = results["finalists"]
    assert results["task"]["classes"] == ["fox", "frog"]
    assert results["recipe"]["backbone"] == BACKBONE
    assert results["candidates"] == 14  # two mechanisms; all blocks, each stage, and the last stages
    assert results["spent"] <= 3
    assert results["advice"]["sentence"].replace("\N{MINUS SIGN}", "-") in output

    let_win(out, finalist)
    output = run(photographs, out, monkeypatch, capsys)
    advice = read_search(out)["advice"]
    assert advice["attention"] == finalist
    *_, sentence, code = output.splitlines()
    assert sentence == advice["sentence"].replace("\N{MINUS SIGN}", "-")
    assert sentence.startswith(f"{finalist.replace('@', ' at ')}: 40.0 points fewer errors [")

    model = timm.create_model("resnet18", num_classes=2, channels=CHANNELS)
    names = {"sc": sc, "model": model, "images": torch.randn(2, 3, 32, 32)}
    exec(code, names)  # what a user pastes
    trained = restore(out / FINALISTS / "runs" / folder_name(Recipe(attention=finalist)))
    model.load_state_dict(trained.model.state_dict())
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.eval()(trained.normalize(images)), trained(images))
