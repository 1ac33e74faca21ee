"""saccade evaluate: results equal those of plain loops, on the task of the run and on others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.cli import main
from saccade.cli.evaluate import _confused_pairs, _worst_classes
from saccade.config import Recipe
from saccade.data import Split, Task, load_task
from saccade.errors import BadData, BadRun, UnknownName
from saccade.results import Evaluation, proportion_interval
from saccade.results.io import validate
from saccade.training import evaluate_run, restore, train
from support.errors import raises

TASK = "white-patch:size=32,patch=[6,12],train=100,validation=20,test=150"
OTHER = "white-patch:size=32,patch=[6,12],train=4,validation=4,test=31,seed=5"
RECIPE = Recipe(task=TASK, attention="cbam", epochs=2, batch_size=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train(RECIPE, folder)
    return folder


def test_the_runs_own_task_gives_the_runs_own_result(run: Path) -> None:
    expected = json.loads((run / "result.json").read_text())
    result = evaluate_run(run)
    validate(run, result, Evaluation)
    assert result["error"]["mean"] == expected["error"]
    assert result["loss"] == expected["loss"]
    assert result["localization"] == expected["localization"]
    assert (result["images"], result["chance_error"]) == (150, 0.5)
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert evaluate_run(checkpoint) == {**result, "network": str(checkpoint)}


def test_numbers_are_those_of_plain_loops_on_another_task(run: Path) -> None:
    result = evaluate_run(run, OTHER)
    test, network = load_task(OTHER).test, restore(run)
    counts = [[0, 0], [0, 0]]
    loss = 0.0
    for image, label in zip(test.images, test.labels.tolist(), strict=True):
        with torch.no_grad():
            logits = network(image[None])[0].double()
        counts[label][int(logits.argmax())] += 1
        loss -= math.log(logits.softmax(0)[label].item()) / 31
    wrong = counts[0][1] + counts[1][0]
    assert result["confusion"] == counts
    assert result["error"]["mean"] == wrong / 31
    assert result["error"] == proportion_interval(wrong, 31)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert [row["name"] for row in result["classes"]] == ["without", "with"]
    assert [row["images"] for row in result["classes"]] == [sum(row) for row in counts]
    assert [row["error"] for row in result["classes"]] == pytest.approx(
        [counts[0][1] / sum(counts[0]), counts[1][0] / sum(counts[1])]
    )
    assert 0 < wrong < 31


def test_a_class_without_a_test_image_has_no_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_task(TASK)
    without = own.test.labels == 0
    test = Split(own.test.images[without], own.test.labels[without])
    monkeypatch.setattr(
        "saccade.training.evaluate.load_task",
        lambda _: Task("half", own.classes, own.train, own.validation, test),
    )
    result = evaluate_run(run, "half")
    assert [row["error"] is None for row in result["classes"]] == [False, True]
    assert result["localization"] is None


def test_images_of_another_size_are_tested_where_the_network_takes_them(run: Path, tmp_path: Path) -> None:
    larger = "white-patch:size=48,patch=[6,12],train=4,validation=4,test=10"
    assert evaluate_run(run, larger)["images"] == 10
    small = "white-patch:size=160,train=8,validation=4,test=4"
    train(Recipe(task=small, backbone="timm:test_vit", epochs=1, batch_size=4), tmp_path)
    other = larger.replace("48", "50")
    with raises(BadData, owner=other, option="shape", value=(3, 50, 50)):
        evaluate_run(tmp_path, other)  # not a multiple of the patches


def test_what_cannot_be_evaluated_is_named(run: Path, tmp_path: Path) -> None:
    with raises(BadData, owner="digits", option="classes", choices=("without", "with")):
        evaluate_run(run, "digits")
    with raises(UnknownName, value="digts"):
        evaluate_run(run, "digts")
    with raises(BadRun, owner=str(tmp_path), option="recipe.yaml"):
        evaluate_run(tmp_path)
    with raises(BadRun, owner=str(tmp_path / "last.ckpt")):
        evaluate_run(tmp_path / "last.ckpt")
    (tmp_path / "runs").mkdir()
    with raises(BadRun, owner=str(tmp_path)):
        evaluate_run(tmp_path)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["saccade", "evaluate", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_run(run, OTHER)
    assert call(monkeypatch, str(run), OTHER, "--json") == 0
    assert json.loads(capsys.readouterr().out) == result
    assert call(monkeypatch, str(run), OTHER) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    low, high = result["error"]["low"], result["error"]["high"]
    assert f"{result['error']['mean']:.2%} of 31 images (95% interval {low:.2%} to {high:.2%}" in first
    rows = [line.split() for line in rest]
    for row, counts in zip(result["classes"], result["confusion"], strict=True):
        assert [row["name"], *map(str, counts), f"{row['error']:.1%}"] in rows
    assert rest[-1].startswith("attention at attention.2.spatial, ")
    assert call(monkeypatch, str(run), "digits") == 2
    said = capsys.readouterr().err
    assert said.startswith("saccade: the model predicts 2 classes")
    assert len(said.splitlines()) == 1


def test_of_many_classes_the_worst_are_shown() -> None:
    confusion = [[5 - (true == 3) * 4 if true == answer else 0 for answer in range(12)] for true in range(12)]
    confusion[3][7], confusion[2][1] = 4, 1
    result: Any = {
        "classes": [
            {"name": f"c{true}", "images": sum(row), "error": 1 - row[true] / sum(row)}
            for true, row in enumerate(confusion)
        ],
        "confusion": confusion,
    }
    assert _confused_pairs(result) == "most frequent confusions: c3 as c7 (4), c2 as c1 (1)"
    table = _worst_classes(result)
    assert list(table.columns[0].cells)[:2] == ["c3", "c2"]
    assert table.row_count == 10
