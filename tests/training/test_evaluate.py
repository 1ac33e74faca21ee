"""saccade evaluate: the numbers are those of plain loops, on the run's own task and on others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.cli import main
from saccade.cli.evaluate import _confused, _worst
from saccade.config import Recipe
from saccade.data import Split, Task, load_task
from saccade.errors import BadData, BadRun, UnknownName
from saccade.training import restore, train
from saccade.training.evaluation import evaluation

TASK = "white-patch:size=32,patch=[6,12],train=100,validation=20,test=150"
OTHER = "white-patch:size=32,patch=[6,12],train=4,validation=4,test=31,seed=5"
RECIPE = Recipe(task=TASK, attention="cbam", epochs=2, batch_size=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train(RECIPE, folder)
    return folder


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's interval, as his paper of 1927 writes it."""
    p, z = wrong / images, 1.959963984540054
    middle = p + z * z / (2 * images)
    reach = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return (middle - reach) / (1 + z * z / images), (middle + reach) / (1 + z * z / images)


def test_the_runs_own_task_gives_the_runs_own_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    found = evaluation(run)
    assert found["error"]["mean"] == result["error"]
    assert found["loss"] == result["loss"]
    assert found["localization"] == result["localization"]
    assert (found["images"], found["chance_error"]) == (150, 0.5)
    assert evaluation(run / "checkpoints" / "last.ckpt") == found | {
        "network": str(run / "checkpoints" / "last.ckpt")
    }


def test_numbers_are_those_of_plain_loops_on_another_task(run: Path) -> None:
    found = evaluation(run, OTHER)
    test, network = load_task(OTHER).test, restore(run)
    counts = [[0, 0], [0, 0]]
    loss = 0.0
    for image, label in zip(test.images, test.labels.tolist(), strict=True):
        with torch.no_grad():
            logits = network(image[None])[0].double()
        counts[label][int(logits.argmax())] += 1
        loss -= math.log(logits.softmax(0)[label].item()) / 31
    wrong = counts[0][1] + counts[1][0]
    assert found["confusion"] == counts
    assert found["error"]["mean"] == wrong / 31
    assert (found["error"]["low"], found["error"]["high"]) == pytest.approx(wilson(wrong, 31))
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert [its["name"] for its in found["classes"]] == ["without", "with"]
    assert [its["images"] for its in found["classes"]] == [sum(row) for row in counts]
    assert [its["error"] for its in found["classes"]] == pytest.approx(
        [counts[0][1] / sum(counts[0]), counts[1][0] / sum(counts[1])]
    )
    assert 0 < wrong < 31


def test_a_class_without_a_test_image_has_no_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_task(TASK)
    without = own.test.labels == 0
    test = Split(own.test.images[without], own.test.labels[without])
    monkeypatch.setattr(
        "saccade.training.evaluation.load_task",
        lambda _: Task("half", own.classes, own.train, own.validation, test),
    )
    found = evaluation(run, "half")
    assert [its["error"] is None for its in found["classes"]] == [False, True]
    assert found["localization"] is None


def test_images_of_another_size_are_tested_where_the_network_takes_them(run: Path, tmp_path: Path) -> None:
    larger = "white-patch:size=48,patch=[6,12],train=4,validation=4,test=10"
    assert evaluation(run, larger)["images"] == 10
    small = "white-patch:size=160,train=8,validation=4,test=4"
    train(Recipe(task=small, backbone="timm:test_vit", epochs=1, batch_size=4), tmp_path)
    said = r"the network takes images \(3, 160, 160\), and those of .* are \(3, 50, 50\)"
    with pytest.raises(BadData, match=said):
        evaluation(tmp_path, larger.replace("48", "50"))  # not a multiple of the patches


def test_what_cannot_be_evaluated_is_named(run: Path, tmp_path: Path) -> None:
    said = r"tells 2 classes, 'without', 'with' apart, and 'digits' has 10 classes, '0', .*'4' \.\.\.$"
    with pytest.raises(BadData, match=said):
        evaluation(run, "digits")
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        evaluation(run, "digts")
    with pytest.raises(BadRun, match="holds no recipe"):
        evaluation(tmp_path)
    with pytest.raises(BadRun, match="does not exist"):
        evaluation(tmp_path / "last.ckpt")
    (tmp_path / "runs").mkdir()
    with pytest.raises(BadRun, match="is the folder of a comparison; name one of its runs"):
        evaluation(tmp_path)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["saccade", "evaluate", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluation(run, OTHER)
    assert call(monkeypatch, str(run), OTHER, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found
    assert call(monkeypatch, str(run), OTHER) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    low, high = found["error"]["low"], found["error"]["high"]
    assert f"{found['error']['mean']:.2%} of 31 images (95% interval {low:.2%} to {high:.2%}" in first
    rows = [line.split() for line in rest]
    for its, counts in zip(found["classes"], found["confusion"], strict=True):
        assert [its["name"], *map(str, counts), f"{its['error']:.1%}"] in rows
    assert rest[-1].startswith("attention at attention.2.spatial, ")
    assert call(monkeypatch, str(run), "digits") == 2
    said = capsys.readouterr().err
    assert said.startswith("saccade: the network tells 2 classes")
    assert len(said.splitlines()) == 1


def test_of_many_classes_the_worst_are_shown() -> None:
    confusion = [[5 - (true == 3) * 4 if true == answer else 0 for answer in range(12)] for true in range(12)]
    confusion[3][7], confusion[2][1] = 4, 1
    result: dict[str, Any] = {
        "classes": [
            {"name": f"c{true}", "images": sum(row), "error": 1 - row[true] / sum(row)}
            for true, row in enumerate(confusion)
        ],
        "confusion": confusion,
    }
    assert _confused(result) == "taken most often: c3 for c7 (4), c2 for c1 (1)"
    table = _worst(result)
    assert list(table.columns[0].cells)[:2] == ["c3", "c2"]
    assert table.row_count == 10
