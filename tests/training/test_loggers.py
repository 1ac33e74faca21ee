"""Loggers: the curves of a run, and of the runs of a comparison, in TensorBoard, W&B and MLflow."""

from __future__ import annotations

import csv
import importlib
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from saccade.cli import main
from saccade.config import Recipe
from saccade.errors import BadOption
from saccade.training import Classifier, train
from support.errors import raises

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
SHORT = Recipe(task=TASK, epochs=2, batch_size=10)
Scalars = dict[str, list[tuple[int, Any]]]


def scalars(folder: Path) -> Scalars:
    """Read the curves from the event files of a folder: records of length, checksum, event, checksum."""
    event = importlib.import_module("tensorboardX.proto.event_pb2").Event
    found: Scalars = {}
    for path in sorted(folder.glob("events.*"), key=lambda path: path.suffix):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            its = event.FromString(data[12 : 12 + length])
            for value in its.summary.value:
                found.setdefault(value.tag, []).append((its.step, value.simple_value))
            data = data[16 + length :]
    return found


def expected(folder: Path) -> Scalars:
    """Read the rows of metrics.csv; each epoch has four steps."""
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {name: [(4 * int(row["epoch"]), pytest.approx(row[name])) for row in rows] for name in rows[0]}


def stop_in_the_second_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    original = Classifier.training_step

    def step(self: Classifier, batch: Any, index: int) -> Any:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, folder, **options)


def test_by_default_tensorboard_has_the_curves_also_of_a_run_that_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    stop_in_the_second_epoch(folder, monkeypatch)
    assert len(scalars(folder / "tensorboard")["val_error"]) == 1  # completed epochs are on disk
    train(SHORT, folder, resume=True)
    found = scalars(folder / "tensorboard")
    assert found == expected(folder)
    assert len(found["val_error"]) == 2


def test_without_tensorboard_nothing_is_written_and_nothing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    train(SHORT, tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["none", "csv"])
def test_loggers_can_be_turned_off(name: Any, tmp_path: Path) -> None:
    train(SHORT, tmp_path / "run", logger=name)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"recipe.yaml", "run.json", "metrics.csv", "checkpoints", "gallery.npz", "result.json"}


def test_any_logger_gets_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.training.loggers._is_installed", lambda _: True)
    monkeypatch.setattr(
        "saccade.training.loggers._create", lambda name, folder, *_: CSVLogger(folder, name=name, version="")
    )
    curves = train(SHORT, tmp_path / "run", logger="mlflow")["curves"]
    rows = (tmp_path / "run" / "mlflow" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    assert set(names) == {"step", *curves}
    for number, row in enumerate(rows[1:]):
        found = dict(zip(names, map(float, row.split(",")), strict=True))
        assert found == {name: pytest.approx(its[number]) for name, its in curves.items()} | {
            "step": 4 * (number + 1)
        }
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_logger_that_is_not_installed_is_named(
    name: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with raises(BadOption, owner="train", option="logger", value=name) as caught:
        train(SHORT, tmp_path / "run", logger=name)
    assert f"needs the package '{package}'; pip install" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_logger_that_cannot_begin_is_one_sentence_and_another_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any) -> Any:
        raise RuntimeError("no key is configured\nmore of it")

    monkeypatch.setattr("saccade.training.loggers._is_installed", lambda _: True)
    monkeypatch.setattr("saccade.training.loggers._create", begin)
    with raises(BadOption, owner="train", option="logger", value="wandb") as caught:
        train(SHORT, tmp_path / "run", logger="wandb")
    assert str(caught.value).endswith(": no key is configured")
    assert train(SHORT, tmp_path / "run", logger="none")["curves"]["epoch"] == [1, 2]


def test_a_comparison_gives_each_run_a_logger_in_its_folder_and_all_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, Path, str]] = []

    def begin(name: str, folder: Path, group: str, _: Any) -> CSVLogger:
        begun.append((name, folder, group))
        return CSVLogger(folder, name=name, version="")

    monkeypatch.setattr("saccade.training.loggers._is_installed", lambda _: True)
    monkeypatch.setattr("saccade.training.loggers._create", begin)
    out = tmp_path / "patches"
    words = ["compare", TASK, "-a", "none", "--seeds", "2", "--epochs", "1", "--batch-size", "10"]
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--logger", "wandb", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    runs = [out / "runs" / f"none-seed{seed}" for seed in range(2)]
    assert begun == [("wandb", run, "patches") for run in runs]
    assert all((run / "wandb" / "metrics.csv").exists() for run in runs)


# --------------------------------------------------------------- libraries that are not among the tested ones


def test_each_run_is_one_of_wandb_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    first, second = tmp_path / "first", tmp_path / "second"
    stop_in_the_second_epoch(first, monkeypatch, logger="wandb", group="all")
    train(SHORT, first, resume=True, logger="wandb", group="all")
    train(SHORT, second, logger="wandb", group="all")
    assert wandb.run is None
    ids = [{path.stem for path in run.glob("wandb/*/run-*.wandb")} for run in (first, second)]
    assert [len(its) for its in ids] == [1, 1]
    assert ids[0] != ids[1]


def test_each_run_has_a_database_of_mlflow_or_all_the_one_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("first", "second"):
        train(SHORT, tmp_path / name, logger="mlflow", group="all")
        assert "MLFLOW_TRACKING_URI" not in os.environ
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / name / 'mlflow.db'}")
        (run,) = client.search_runs([client.get_experiment_by_name("all").experiment_id])
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        history = client.get_metric_history(run.info.run_id, "val_error")
        assert [(its.step, its.value) for its in history] == expected(tmp_path / name)["val_error"]
    assert not (tmp_path / "mlruns").exists()
    server = f"sqlite:///{tmp_path / 'server.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    train(SHORT, tmp_path / "third", logger="mlflow")
    assert os.environ["MLFLOW_TRACKING_URI"] == server
    assert not (tmp_path / "third" / "mlflow.db").exists()
    client = mlflow.MlflowClient(server)
    assert len(client.search_runs([client.get_experiment_by_name("saccade").experiment_id])) == 1
