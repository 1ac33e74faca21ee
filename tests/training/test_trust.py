"""A run of somebody else runs, reads and downloads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.config import Recipe
from saccade.data import load_task
from saccade.errors import BadData, BadRun
from saccade.experiments import score
from saccade.results import GALLERY, is_signed, sign
from saccade.training import evaluate_run, examples, restore, train
from support.errors import raises
from support.images import write_images

SMALL = "white-patch:size=16,patch=[4,6],train=16,validation=8,test=8"


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "saccade" / "key"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a folder of images, by this user."""
    photographs = write_images(tmp_path / "photos", ("cat", "dog"))
    task = f"folder:{photographs},size=16"
    train(Recipe(task=task, attention="se:reduction=4", epochs=1, batch_size=8), tmp_path / "run")
    return tmp_path / "run"


def change(run: Path, **recipe: Any) -> None:
    """Change the recipe in the checkpoint, as somebody who sends a run can."""
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["recipe"] |= recipe
    torch.save(checkpoint, path)


def test_a_run_of_this_user_is_trusted(run: Path, key: Path) -> None:
    assert evaluate_run(run)["images"] > 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert score(run, images=2, steps=2)["scores"] is not None  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "task",
    [
        "python:subprocess.Popen,args=[touch,CANARY]",
        "python:collections.OrderedDict",
        "huggingface:somebody/something",
        "folder:/etc,size=16",
        "cifar10",
        "white-patch:source=/etc",
        "digits:source=mnist",
    ],
)
def test_a_task_that_was_changed_is_not_loaded(
    task: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change(run, task=task)
    for call in (evaluate_run, score):
        with raises(BadRun, owner=str(run), option="trust", value=task):
            call(run)
    (run / GALLERY).unlink()
    with raises(BadRun, owner=str(run), option="trust", value=task):
        examples(run, restore(run))
    assert not [*tmp_path.rglob("CANARY")]


def test_a_run_of_another_user_is_loaded_if_it_is_trusted(run: Path, key: Path) -> None:
    expected = evaluate_run(run)
    key.unlink()
    with raises(BadRun, option="trust"):
        evaluate_run(run)
    assert evaluate_run(run, trust=True) == expected


def test_a_task_of_bundled_data_needs_no_trust(tmp_path: Path, key: Path) -> None:
    train(Recipe(task=SMALL, epochs=1, batch_size=8), tmp_path / "run")
    key.unlink()
    assert evaluate_run(tmp_path / "run")["images"] == 8


def test_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_signed("text", sign("text"))
    assert not is_signed("text", sign("another"))
    assert not is_signed("text", "")
    assert not is_signed("text", None)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))  # the key can be neither read nor written
    assert sign("text") == ""
    assert not is_signed("text", sign("text"))


@pytest.mark.parametrize("name", ["subprocess.Popen", "os.system", "builtins.exec", "torch.nn.Linear"])
def test_only_the_class_of_a_data_set_is_called(name: str) -> None:
    with raises(BadData, owner="python", option="name", value=name):
        load_task(f"python:{name}")
