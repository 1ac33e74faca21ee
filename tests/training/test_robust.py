"""Robustness of a run: signals, kills, locks, files of other versions, and unusable input."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from saccade.cli import main
from saccade.cli.display import RunDisplay
from saccade.config import Recipe
from saccade.data import Split, Task
from saccade.errors import BadData, BadRecipe, BadRun
from saccade.experiments import Comparison, compare, score
from saccade.results import LOCK, lock_folder
from saccade.training import Batches, Classifier, Hardware, Progress, load_checkpoint, train
from support.errors import raises
from support.forked import Child, ForkServer

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
SHORT = Recipe(task=TASK, attention="se", epochs=2, batch_size=10)
LONG = Recipe(task="white-patch:size=32,patch=[6,12],train=400,validation=20,test=20", epochs=3, batch_size=4)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def same(one: Path, other: Path) -> bool:
    """Return whether two runs ended with the same weights and curves, bit for bit."""
    ours, theirs = weights(one), weights(other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    lasting = [[result[key] for key in ("error", "loss", "curves", "localization")] for result in results]
    return lasting[0] == lasting[1] and all(torch.equal(ours[name], theirs[name]) for name in ours)


def epochs_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


# ------------------------------------------------------------------------------------------- stopping


def stop_at(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, folder: Path, place: tuple[int, int], number: int
) -> None:
    """Train until a signal arrives during a step (epoch, batch)."""
    original = Classifier.training_step

    def step(self: Classifier, batch: Any, index: int) -> Any:
        if (self.current_epoch, index) == place:
            signal.raise_signal(number)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder)


RANDOM = replace(
    SHORT, grad_accum_steps=2, mixup=0.2, ema_decay=0.9, augment="crop-flip", grad_clip=0.1, attention="cbam"
)


FRESH = replace(SHORT, task="digits:variant=translated,fresh=true,max_samples=40,size=32", batch_size=10)


@pytest.mark.parametrize(
    ("recipe", "place", "steps"),
    [
        (SHORT, (0, 0), 1),
        (SHORT, (1, 1), 6),
        (SHORT, (1, 3), 8),  # the last step: the run is trained, but not tested
        (
            replace(SHORT, early_stopping_patience=3),
            (0, 3),
            4,
        ),  # the last step of an epoch, which is completed first
        (RANDOM, (1, 0), 3),  # between two batches of one optimizer step
        (FRESH, (1, 1), 6),  # in an epoch with images of its own
    ],
)
def test_a_run_that_is_stopped_in_a_step_goes_on_after_it(
    recipe: Recipe, place: tuple[int, int], steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop_at(monkeypatch, recipe, parts, place, signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    checkpoint = load_checkpoint(parts / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == steps
    assert not (parts / "result.json").exists()
    train(recipe, parts, resume=True)
    assert same(whole, parts)


def test_a_second_signal_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def step(_self: Classifier, _batch: Any, _index: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(train(replace(SHORT, epochs=1), tmp_path / "run")))
    thread.start()
    thread.join()
    assert 0 <= found[0]["error"] <= 1


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(LONG, folder)
    return folder


def begun(server: ForkServer, folder: Path) -> Child:
    """Start a real process and wait until its second epoch has started."""
    LONG.write(folder.with_suffix(".yaml"))
    words = ("train", "--recipe", str(folder.with_suffix(".yaml")), "--out", str(folder))
    process = server.start(words, folder.with_name("work"))
    wait_until_learned(folder, process)
    return process


def resume(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Resume a run from the command line."""
    words = ["saccade", "train", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder), "--resume"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


def wait_until_learned(folder: Path, process: Child | subprocess.Popen[str]) -> None:
    """Wait until the second epoch has started."""
    deadline = time.monotonic() + 100
    while not epochs_done(folder):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(0.1)


def test_a_process_that_is_asked_to_stop_says_so_and_can_go_on(
    uninterrupted: Path, server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    process = begun(server, folder)
    with pytest.raises(BadRun, match=f"'.*run' is in use by process {process.pid} on {socket.gethostname()}"):
        train(LONG, folder, resume=True)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == "saccade: terminated; run the same command with --resume to continue\n"
    assert not (folder / LOCK).exists()
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] % 100  # inside an epoch
    resume(monkeypatch, folder)
    assert same(folder, uninterrupted)


def test_a_process_that_is_killed_goes_on_after_its_last_whole_epoch(
    uninterrupted: Path, server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    process = begun(server, folder)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (folder / LOCK).exists()  # its process is gone, so that the next one takes it over
    started = (folder / "run.json").read_text()
    resume(monkeypatch, folder)
    assert not (folder / LOCK).exists()
    assert (folder / "run.json").read_text() == started  # written once
    assert same(folder, uninterrupted)


def test_two_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    """The signal reaches only the first process."""
    folder = tmp_path / "run"
    replace(LONG, batch_size=8, epochs=50).write(tmp_path / "recipe.yaml")
    words = [sys.executable, "-m", "saccade", "train", "--recipe", str(tmp_path / "recipe.yaml")]
    words += ["--out", str(folder), "--devices", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until_learned(folder, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert said == "saccade: terminated; run the same command with --resume to continue\n"
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    (batches,) = (its["batches"] for name, its in checkpoint["callbacks"].items() if "Preemption" in name)
    assert batches == checkpoint["global_step"] % 50 != 0
    (images,) = (
        its["epoch"]["sums"]["images"] for name, its in checkpoint["callbacks"].items() if "History" in name
    )
    assert images == 8 * batches  # of both processes


def test_batches_that_were_learned_from_are_left_out_once() -> None:
    batches = Batches(12, 3, seed=1)
    whole = list(batches)
    batches.skip = 2
    assert list(batches) == whole[2:]
    assert list(batches) == whole


# -------------------------------------------------------------------------------------------- the lock


def test_everything_that_writes_asks_for_the_lock(tmp_path: Path) -> None:
    comparison = Comparison(("none",), 1, replace(SHORT, epochs=1))
    out = tmp_path / "out"
    with lock_folder(out), pytest.raises(BadRun, match=r"'.*out' is in use by process"):
        compare(comparison, out)
    run = compare(comparison, out)["runs"][0]["folder"]
    before = (out / "results.json").read_text()
    for folder in (out, out / run):
        with lock_folder(folder), pytest.raises(BadRun, match=r"is in use by process"):
            score(out, images=2, steps=2)
    assert (out / "results.json").read_text() == before


# ----------------------------------------------------------------------------------- what a run was


def test_a_run_says_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["saccade", "train", "a b"])
    monkeypatch.chdir(tmp_path)
    train(replace(SHORT, epochs=1), tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["command"] == "saccade train 'a b'"
    assert run["versions"]["lightning"] == version("lightning")
    assert run["versions"]["timm"] == version("timm")
    assert run["hardware"]["torch"] == torch.__version__
    assert run["git"] is None
    monkeypatch.setattr("sys.argv", shlex.split(run["repeat"]))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert same(tmp_path / "run", tmp_path / "run-again")


def test_progress_tells_images_per_second(tmp_path: Path) -> None:
    seen: list[Progress] = []
    begin = time.perf_counter()
    train(SHORT, tmp_path / "run", report=seen.append)
    seconds = time.perf_counter() - begin
    assert all(progress.images_per_second > 40 / seconds for progress in seen)
    display = RunDisplay()
    display.progressed(replace(seen[-1], images_per_second=1234.4))
    assert "1,234 images/s" in display.bar.tasks[0].fields["numbers"]


# ------------------------------------------------------------------------------ input that cannot be used


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail with one sentence; return the sentence."""
    monkeypatch.setattr("sys.argv", ["saccade", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("recipe.yaml", ("train", "--recipe", "FILE", "--out", "new")),
        ("recipe.yaml", ("compare", "--recipe", "FILE", "--out", "new")),
        ("recipe.yaml", ("evaluate", "FOLDER")),
        ("results.json", ("score", "FOLDER")),
        ("result.json", ("score", "FOLDER")),
    ],
)
def test_a_file_of_a_newer_version_is_named(
    file: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / file).write_text(json.dumps({"schema": 3, "epochs_of_the_future": 3}))  # JSON is YAML
    paths = {"FILE": str(folder / file), "FOLDER": str(folder)}
    said = call(monkeypatch, capsys, *(paths.get(word, word) for word in words))
    assert f"{file}' has schema 3, written by a newer saccade; this version reads schema" in said
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_recipes_say_their_schema_and_old_ones_need_none() -> None:
    values = yaml.safe_load(SHORT.to_yaml())
    assert values.pop("schema") == 2
    assert Recipe.from_mapping(values) == SHORT


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two splits of two classes of 12 images."""
    root = tmp_path / "images"
    for part in ("train", "test"):
        for label, level in (("cat", 0), ("dog", 255)):
            (root / part / label).mkdir(parents=True)
            for index in range(6):
                Image.new("L", (24, 24), level).save(root / part / label / f"{index}.png")
    return root


def empty_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "emu").mkdir()


def other_classes(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "emu")


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (empty_class, (), "emu' contains no image"),
        (other_classes, (), "train, ['cat', 'dog'], and in test, ['cat', 'emu'], differ"),
        (None, ("--batch-size", "50"), "batch_size=50 is larger than the 10 training images"),
        (None, ("--devices", "4096", "--batch-size", "4096"), "devices=4096 is too many: this machine has"),
        (
            None,
            ("--strategy", "telepathy", "--batch-size", "2"),
            "unknown strategy 'telepathy'; choose from",
        ),
        (None, ("--strategy", "ddp", "--devices", "0"), "devices=0 must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    spoil: Callable[[Path], None] | None,
    options: tuple[str, ...],
    said: str,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if spoil:
        spoil(images)
    out = images.parent / "out"
    assert said in call(monkeypatch, capsys, "train", f"folder:{images},size=24", *options, "--out", str(out))
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_strategy_that_needs_a_gpu_is_named(tmp_path: Path) -> None:
    with raises(BadRecipe, option="strategy", value="fsdp"):
        train(SHORT, tmp_path / "run", hardware=Hardware(strategy="fsdp"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], "the labels of the test split range from 0 to 2; 0 to 1 were expected for 2 classes"),
        ([-1, 0, 1], "the labels of the test split range from -1 to 1"),
        ([0, 1], "the test split has 3 images, 2 labels"),
    ],
)
def test_labels_that_cannot_be_are_named(labels: list[int], said: str) -> None:
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    good = Split(pixels, torch.tensor([0, 1, 1]))
    with pytest.raises(BadData, match=said):
        Task("zoo", ("cat", "dog"), good, good, Split(pixels, torch.tensor(labels)))
