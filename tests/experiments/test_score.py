"""saccade score: what it writes and what it keeps, a real kill, and unusable folders."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from saccade.attribution import grad_cam
from saccade.cli import main
from saccade.config import Recipe
from saccade.data import load_task
from saccade.errors import BadOption, BadRun
from saccade.experiments import Comparison, compare, score
from saccade.metrics import evaluate_faithfulness, localize
from saccade.results import compute_leaderboard, main_map, read_run_result
from saccade.training import record_attention, restore, train
from support.errors import raises
from support.forked import ForkServer

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
VALUES: dict[str, Any] = {
    "task": TASK,
    "attentions": ["none", "cbam"],
    "seeds": 1,
    "epochs": 1,
    "batch_size": 20,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    compare(Comparison.from_mapping(VALUES), out)
    return out


@pytest.fixture(scope="module")
def scored(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "out"
    shutil.copytree(trained, out)
    score(out, images=4, steps=5)
    return out


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_run_gets_scores_and_keeps_the_rest(trained: Path, scored: Path) -> None:
    for run in ("none-seed0", "cbam-seed0"):
        before, after = (read(folder / "runs" / run / "result.json") for folder in (trained, scored))
        scores = after.pop("scores")
        assert before.pop("scores") is None
        assert after == before
        assert ("attention" in scores) == (run == "cbam-seed0")
        assert scores["images"] == 4
        assert scores["shares"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=1e-3)
        assert len(scores["grad_cam"]["sanity"]["layers"]) == (7 if run == "none-seed0" else 11)
    assert scores["attention"]["path"] == "attention.2.spatial"
    layers = scores["attention"]["sanity"]["layers"]
    assert [layer["path"] for layer in layers if not layer["reaches"]] == [
        "model.head",
        "model.stages.2.1",
        "model.stages.2.0",
    ]
    assert all(layer["reaches"] for layer in scores["grad_cam"]["sanity"]["layers"])


def test_the_scores_are_those_of_the_maps_on_images_with_a_target(scored: Path) -> None:
    classifier, task = restore(scored / "runs/cbam-seed0"), load_task(TASK)
    assert task.test.masks is not None
    with_target = task.test.masks.flatten(1).any(1).nonzero()[:, 0]
    assert len(with_target) == 10
    chosen = with_target[[0, 3, 6, 9]]
    images, masks = task.test.images[chosen].float(), task.test.masks[chosen]
    heats = {
        "attention": record_attention(classifier, images)[1].heatmap((32, 32)),
        "grad_cam": grad_cam(classifier, images).heatmap((32, 32)),
    }
    found = read(scored / "runs/cbam-seed0/result.json")["scores"]
    for name, heat in heats.items():
        curves = evaluate_faithfulness(lambda x: classifier(x).softmax(1), images, heat, steps=5)
        for sign in ("positive", "negative"):
            gain = curves[sign].auc_gain(over=curves["random"]).mean().item()
            assert found[name][sign]["auc_gain"] == pytest.approx(gain, abs=1e-6)
            assert found[name][sign]["deletion"] == pytest.approx(
                curves[sign].deletion_area.mean().item(), abs=1e-6
            )
        assert found["center_prior"]["insertion_curve"] == pytest.approx(
            curves["center_prior"].insertion.mean(0).tolist(), abs=1e-6
        )
        assert found[name]["localization"] == localize(heat, masks).mean()


def test_a_comparison_gets_its_table_again_and_keeps_the_rest(trained: Path, scored: Path) -> None:
    before, after = read(trained / "results.json"), read(scored / "results.json")
    for rows in (before["leaderboard"], before["runs"], after["leaderboard"], after["runs"]):
        for row in rows:
            row.pop("scores")
    assert after == before
    none, cbam = read(scored / "results.json")["leaderboard"]
    assert list(none["scores"]) == ["grad_cam"]
    assert list(cbam["scores"]) == ["attention", "grad_cam"]
    assert cbam["scores"]["attention"]["polarity"] == cbam["localization"]["polarity"]
    with (scored / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["scores_attention_faithfulness_mean"] == ""
    assert float(rows[1]["scores_attention_spearman_mean"]) == cbam["scores"]["attention"]["spearman"]["mean"]


def test_comparing_again_keeps_the_scores_and_scoring_again_replaces_them(
    scored: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    compare(Comparison.from_mapping(VALUES), out)
    assert read(out / "results.json")["runs"] == read(scored / "results.json")["runs"]
    assert read(out / "results.json")["leaderboard"] == read(scored / "results.json")["leaderboard"]
    stages: list[tuple[str, float]] = []
    score(out, images=2, steps=3, report=lambda what, share: stages.append((what, share)))
    run = read(out / "runs/cbam-seed0/result.json")
    assert (run["scores"]["images"], run["scores"]["steps"]) == (2, 3)
    shares = [share for _, share in stages]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert stages[-1][0] == "run 2/2: cbam, seed 0: sanity check, Grad-CAM"
    score(out / "runs/cbam-seed0", images=4, steps=5)  # one run alone, with the scores of the comparison
    assert read(out / "runs/cbam-seed0/result.json") == read(scored / "runs/cbam-seed0/result.json")


def test_killed_in_the_middle_it_loses_nothing(trained: Path, server: ForkServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    first = out / "runs/none-seed0/result.json"
    started = first.stat().st_mtime_ns
    process = server.start(("score", str(out), "--images", "10"), tmp_path / "work")
    limit = time.monotonic() + 120
    while first.stat().st_mtime_ns == started and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.kill()
    assert process.wait(60) == -9, process.read("err")
    assert read(first)["scores"]["images"] == 10
    for untouched in ("results.json", "leaderboard.csv", "runs/cbam-seed0/result.json"):
        assert (out / untouched).read_bytes() == (trained / untouched).read_bytes()
    score(out, images=2, steps=2)
    assert read(out / "results.json")["leaderboard"][1]["scores"]["attention"]["runs"] == 1


def test_the_command_prints_the_scores_and_writes_the_page(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    arguments = ["--images", "2", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["saccade", "score", str(out), *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert printed.count("Grad-CAM, ") == 2
    assert printed.count("attention, ") == 1
    assert "Faithful" in (out / "report.html").read_text()
    run = out / "runs" / "cbam-seed0"
    monkeypatch.setattr("sys.argv", ["saccade", "score", str(run), *arguments, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out) == read(run / "result.json")


def test_without_masks_all_images_count_and_the_better_sign(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 100)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(low, low + 100, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    recipe = Recipe(
        task=f"folder:{tmp_path / 'images'},size=32",
        attention="cbam",
        epochs=2,
        batch_size=10,
        early_stopping_patience=1,
    )
    train(recipe, tmp_path / "run")
    score(tmp_path / "run", images=1000, steps=4)
    result = read_run_result(tmp_path / "run")
    scores: Any = result["scores"]
    assert scores["images"] == result["task"]["test"]
    assert scores["attention"]["localization"] is None
    row: Any = main_map(compute_leaderboard([result])[0])
    gains = {sign: scores["attention"][sign]["auc_gain"] for sign in ("positive", "negative")}
    assert row["faithfulness"]["mean"] == max(gains.values()) == gains[row["polarity"]]
    assert row["precision"] is None


def test_folders_and_options_that_cannot_be_used(trained: Path, tmp_path: Path) -> None:
    with raises(BadRun, owner=str(tmp_path)):
        score(tmp_path)
    with raises(BadOption, owner="score", option="images", value=0):
        score(trained, images=0)
    with raises(BadOption, option="steps", value=2000):
        score(trained / "runs/none-seed0", images=1, steps=2000)
    (tmp_path / "results.json").write_text("{}")
    with raises(BadRun, owner=str(tmp_path / "results.json"), option="schema"):
        score(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(trained / "runs/none-seed0", run)
    (run / "checkpoints/last.ckpt").write_bytes(b"no")
    with raises(BadRun, owner=str(run / "checkpoints/last.ckpt")):
        score(run, images=1, steps=1)
    (run / "checkpoints/last.ckpt").unlink()
    with raises(BadRun, owner=str(run / "checkpoints/last.ckpt")):
        score(run, images=1, steps=1)
    assert read(run / "result.json") == read(trained / "runs/none-seed0/result.json")


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_of_another_precision_is_scored_too(
    precision: Literal["64-true", "bf16-true"], tmp_path: Path
) -> None:
    train(Recipe(task=TASK, attention="cbam", epochs=1, batch_size=20, precision=precision), tmp_path)
    score(tmp_path, images=2, steps=2)
    scores = read_run_result(tmp_path)["scores"]
    assert scores
    assert scores["attention"]["sanity"]["spearman"] <= 1
