"""Comparisons: a real kill, growing folders, and unusable input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from saccade.cli import main
from saccade.config import Recipe, folder_name
from saccade.errors import BadRecipe, BadRun, SaccadeError, UnknownName
from saccade.experiments import Comparison, compare
from saccade.results import read_comparison
from support.errors import raises
from support.forked import ForkServer

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
VALUES: dict[str, Any] = {
    "task": TASK,
    "attentions": ["none", "cbam"],
    "seeds": 2,
    "epochs": 2,
    "batch_size": 20,
}
TIMES = ("latency_ms", "train_seconds")


def lasting(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what two comparisons of one recipe must share: everything except times and the command."""

    def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]

    return {
        **{key: value for key, value in summary.items() if key != "command"},
        "leaderboard": timeless(summary["leaderboard"]),
        "runs": timeless(summary["runs"]),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted comparison."""
    out = tmp_path_factory.mktemp("whole") / "out"
    compare(Comparison.from_mapping(VALUES), out)
    return out


def test_runs_that_were_trained_one_by_one_become_a_comparison(whole: Path, tmp_path: Path) -> None:
    """A job array writes only the folders of the runs, without the recipe of the comparison."""
    out = tmp_path / "out"
    shutil.copytree(whole / "runs", out / "runs")
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    summary = compare(Comparison.from_mapping(VALUES), out)
    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert summary["leaderboard"] == json.loads((whole / "results.json").read_text())["leaderboard"]


def test_the_grid_runs_every_attention_before_the_next_seed() -> None:
    runs = Comparison.from_mapping(VALUES).runs()
    assert [(run.attention, run.seed) for run in runs] == [("none", 0), ("cbam", 0), ("none", 1), ("cbam", 1)]
    names = {
        folder_name(Recipe(attention=a)) for a in ("multi_head", "multi_head:heads=1", "multi_head:heads=2")
    }
    assert len(names) == 3


def test_a_comparison_survives_its_file(tmp_path: Path) -> None:
    comparison = Comparison.from_mapping(VALUES)
    comparison.write(tmp_path / "recipe.yaml")
    assert Comparison.read(tmp_path / "recipe.yaml") == comparison


def test_what_a_comparison_leaves(whole: Path) -> None:
    summary = json.loads((whole / "results.json").read_text())
    assert summary["schema"] == 2
    assert read_comparison(whole)["runs"] == summary["runs"]
    assert [row["attention"] for row in summary["leaderboard"]] == ["none", "cbam"]
    assert all(row["seeds"] == 2 for row in summary["leaderboard"])
    assert len(summary["runs"]) == 4
    for run in summary["runs"]:
        assert (whole / run["folder"] / "result.json").exists()
    with (whole / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["attention"] for row in rows] == ["none", "cbam"]
    assert float(rows[1]["difference_mean"]) == summary["leaderboard"][1]["difference"]["mean"]
    assert rows[0]["difference_mean"] == ""
    assert rows[1]["localization_polarity"] in ("positive", "negative")


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(
    whole: Path, server: ForkServer, tmp_path: Path
) -> None:
    """Kill -9 a real process twice, in the middle of a first and of a later run."""
    out = tmp_path / "out"
    Comparison.from_mapping(VALUES).write(tmp_path / "recipe.yaml")
    command = ("compare", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(out))
    for sign_of_life in ("runs/none-seed0/checkpoints/last.ckpt", "runs/cbam-seed0/metrics.csv"):
        process = server.start(command, tmp_path / "work")
        deadline = time.monotonic() + 120
        while not (out / sign_of_life).exists():
            assert process.poll() is None, process.read("err")
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert not (out / "results.json").exists()
    first = (out / "runs/none-seed0/result.json").stat().st_mtime_ns
    done = server.run(command, tmp_path / "work", timeout=240)
    assert done.code == 0, done.error
    assert (out / "runs/none-seed0/result.json").stat().st_mtime_ns == first
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (out, whole))
    assert lasting(ours) == lasting(theirs)


def test_ctrl_c_is_one_sentence(server: ForkServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("compare", TASK, "-a", "none", "--epochs", "1000", "--batch-size", "20", "--out", str(out))
    process = server.start(command, tmp_path / "work")
    while not (out / "runs/none-seed0/metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "saccade: interrupted; run the same command again to continue\n"


def test_started_again_it_does_nothing_twice(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/result.json")}
    assert len(before) == 4
    compare(Comparison.from_mapping(VALUES), whole)
    assert {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/result.json")} == before


def test_a_comparison_grows(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    shutil.copytree(whole, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    more = Comparison.from_mapping({**VALUES, "attentions": [*VALUES["attentions"], "eca"], "seeds": 3})
    summary = compare(more, out)
    assert len(summary["runs"]) == 9
    assert [row["seeds"] for row in summary["leaderboard"]] == [3, 3, 3]
    after = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    assert before.items() < after.items()
    assert Comparison.read(out / "recipe.yaml") == more
    with raises(BadRun, owner=str(out), option="attentions"):
        compare(Comparison.from_mapping(VALUES), out)


def test_json_for_machines(whole: Path, server: ForkServer, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    Comparison.from_mapping(VALUES).write(recipe)
    done = server.run(("compare", "--recipe", str(recipe), "--out", str(whole), "--json"), tmp_path / "work")
    assert done.code == 0, done.error
    assert lasting(json.loads(done.output)) == lasting(json.loads((whole / "results.json").read_text()))
    assert (whole / "report.html").exists()


@pytest.mark.parametrize(
    ("values", "error", "fields"),
    [
        ({"attentions": []}, BadRecipe, {"option": "attentions", "value": ()}),
        ({"attentions": "cbam"}, BadRecipe, {"option": "attentions", "value": "cbam"}),
        ({"attentions": ["se", "se"]}, BadRecipe, {"option": "attentions", "value": "se"}),
        ({"seeds": 0}, BadRecipe, {"option": "seeds", "value": 0}),
        ({"seeds": -3}, BadRecipe, {"option": "seeds", "value": -3}),
        ({"seed": 1}, UnknownName, {"owner": "recipe", "value": "seed"}),
        ({"color": 1}, UnknownName, {"owner": "recipe", "value": "color"}),
    ],
)
def test_bad_comparisons_are_named(
    values: dict[str, Any], error: type[SaccadeError], fields: dict[str, Any]
) -> None:
    with raises(error, **fields):
        Comparison.from_mapping({**VALUES, **values})


def test_folders_that_are_not_this_comparisons_are_refused(whole: Path, tmp_path: Path) -> None:
    for values, option in (
        ({"seeds": 1}, "seeds"),
        ({"seeds": 3, "epochs": 9}, "epochs"),
        ({"attentions": ["none", "eca"]}, "attentions"),
    ):
        with raises(BadRun, owner=str(whole), option=option, value=values[option]):
            compare(Comparison.from_mapping({**VALUES, **values}), whole)
    (tmp_path / "holiday.txt").touch()
    with raises(BadRun, owner=str(tmp_path), option="out"):
        compare(Comparison.from_mapping(VALUES), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["white-patch", "-a", "cbma"], "unknown mechanism 'cbma'; did you mean 'cbam'"),
        (
            ["white-patch", "-a", "cbam:reductoin=3"],
            "unknown option of cbam 'reductoin'; did you mean 'reduction'?",
        ),
        (["white-path"], "unknown task 'white-path'; did you mean 'white-patch'?"),
        (["white-patch", "-a", "multi_head:heads=5"], "channels=32 is not divisible by heads=5"),
        (["folder:/nowhere"], "'/nowhere' is not a folder of images"),
        (["white-patch:source=/nowhere"], "'/nowhere' is not a folder of images"),
        (["white-patch", "--epochs", "0"], "epochs=0 must be an integer of at least 1"),
        (["white-patch", "--seeds", "-1"], "seeds=-1 must be an integer of at least 1"),
        (["--recipe", "/nowhere.yaml"], "recipe '/nowhere.yaml' cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["saccade", "compare", *arguments, "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_full_disk_is_one_sentence_and_loses_nothing(server: ForkServer, tmp_path: Path) -> None:
    """The operating system refuses files over 100 kB."""
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    Comparison.from_mapping({**VALUES, "attentions": ["none"], "seeds": 1}).write(recipe)
    command = ("compare", "--recipe", str(recipe), "--out", str(out))
    done = server.run(command, tmp_path / "work", max_file=100_000)
    assert done.code == 2, done.error
    assert "cannot be written: File too large" in done.error
    assert len(done.error.strip().splitlines()) == 1
    assert not list(out.rglob("result*.json"))
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]
    compare(Comparison.read(recipe), out)
    assert (out / "results.json").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(BadRun) as caught:
        compare(Comparison.from_mapping(VALUES), tmp_path / "file" / "out")
    assert "cannot be written: Not a directory" in str(caught.value)


def test_images_that_were_skipped_are_named(server: ForkServer, tmp_path: Path) -> None:
    from PIL import Image

    for label, level in (("cat", 0), ("dog", 255)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(8):
            Image.new("L", (24, 24), level).save(tmp_path / "images" / label / f"{index}.png")
    (tmp_path / "images" / "dog" / "8.png").write_text("no image")
    task = f"folder:{tmp_path / 'images'},size=24,on_bad_image=skip"
    command = ("compare", task, "-a", "none", "--seeds", "1", "--epochs", "1", "--batch-size", "4")
    done = server.run((*command, "--out", str(tmp_path / "out")), tmp_path / "work")
    assert done.code == 0, done.error
    assert "\nOnly `none` was run: its test error is " in done.output
    assert "saccade: skipped: " in done.error
    assert "dog/8.png' cannot be read" in done.error
    (skipped,) = json.loads((tmp_path / "out" / "results.json").read_text())["task"]["skipped"]
    assert "dog/8.png" in skipped
