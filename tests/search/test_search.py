"""The whole search, with real runs: what it writes, that it survives, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saccade.cli import main
from saccade.config import Recipe
from saccade.errors import BadOption, BadRecipe, BadRun
from saccade.experiments import Job
from saccade.results import BASELINE, SearchResults, read_comparison, read_search, read_space
from saccade.search import FINALISTS, Budget, Limit, open_study, search
from saccade.search.candidate import train_candidate, validation_errors
from saccade.training import prepare, train
from support.errors import raises
from support.forked import Child, ForkServer

TASK = "white-patch:size=32,train=300,validation=60,test=60"
RECIPE = Recipe(task=TASK, epochs=3)
SEARCH: dict[str, Any] = {"mechanisms": ["se", "eca"], "where": ["2", "3"], "finalists": 1, "seeds": 2}
ARGUMENTS = [
    "search",
    TASK,
    *("-a", "se", "-a", "eca", "--where", "2", "--where", "3", "--finalists", "1", "--seeds", "2"),
    *("--epochs", "3", "--budget", "20runs"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search over four candidates."""
    out = tmp_path_factory.mktemp("finished") / "search"
    search(RECIPE, out, Budget.parse("20runs"), **SEARCH)
    return out


def start(server: ForkServer, out: Path, number: int = 0) -> Child:
    """The command in a process of its own."""
    arguments = (*ARGUMENTS, "--out", str(out), "--json")
    return server.start(arguments, out.with_name(f"work{number}"))


def keep_in(errors: list[float]) -> Any:
    """A function for `train_candidate` that keeps the validation errors and never stops."""

    def keep(_epoch: int, error: float, _seconds: float) -> bool:
        errors.append(error)
        return False

    return keep


def comparable(results: SearchResults) -> Any:
    """What does not depend on the time that anything took."""
    runs = [
        {key: value for key, value in run.items() if key != "seconds"}
        for run in sorted(results["runs"], key=lambda run: run["attention"])
    ]
    errors = {row["attention"]: row["error"] for row in results["leaderboard"]}
    return runs, results["finalists"], errors, results["advice"]["attention"]


def check_same_training(results: SearchResults, other: SearchResults) -> None:
    """Every candidate has the validation errors, and every finalist the test errors, of another search.

    Which candidates are stopped may differ: it depends on which others were trained before.
    """
    first, second = ({run["attention"]: run for run in each["runs"]} for each in (results, other))
    assert {*first} == {*second}
    for name, run in first.items():
        assert run["first_error"] == second[name]["first_error"]
        if run["state"] == second[name]["state"]:
            assert run["error"] == second[name]["error"]
    errors = {row["attention"]: row["error"] for row in other["leaderboard"]}
    compared = [row["attention"] for row in results["leaderboard"] if row["attention"] in errors]
    assert BASELINE in compared
    for row in results["leaderboard"]:
        assert row["error"] == errors.get(row["attention"], row["error"])
    assert results["advice"]["sentence"]


def test_the_files_of_a_search(finished: Path) -> None:
    results = read_search(finished)
    space = read_space(finished)
    names = {one["attention"] for one in space["candidates"]}
    assert names == {"se@2", "se@3", "eca@2", "eca@3"}
    assert {run["attention"] for run in results["runs"]} == {BASELINE, *names}
    assert [row["attention"] for row in results["leaderboard"]] == [BASELINE, *results["finalists"]]
    assert {row["seeds"] for row in results["leaderboard"]} == {2}
    assert results["candidates"] == 4
    assert results["task"]["test"] == 60
    comparison = read_comparison(finished / FINALISTS)
    assert {run["seed"] for run in comparison["runs"]} == {0, 1}
    assert not (finished / "workers" / "1").exists()


def test_candidates_are_never_tested_and_keep_no_weights(finished: Path) -> None:
    folders = [*(finished / "candidates").iterdir()]
    assert len(folders) == 5
    for folder in folders:
        assert not (folder / "result.json").exists()
        assert not (folder / "checkpoints").exists()
        assert "seed: 1000" in (folder / "recipe.yaml").read_text()


def test_the_same_call_again_trains_nothing(finished: Path) -> None:
    before = read_search(finished)
    started: list[str] = []

    class Observer:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: started.append(name)

    again = search(RECIPE, finished, Budget.parse("20runs"), **SEARCH, observer=Observer())
    assert comparable(again) == comparable(before)
    assert started == ["opened", "selected"]


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"mechanisms": ["se"]}, "mechanisms"),
        ({"where": ["2"]}, "places"),
        ({"limits": [Limit.parse("max_flops", "+10%")]}, "limits"),
        ({"recipe": replace(RECIPE, learning_rate=0.5)}, "learning_rate"),
    ],
)
def test_a_study_of_another_space_in_the_folder(finished: Path, change: dict[str, Any], option: str) -> None:
    arguments: dict[str, Any] = {"recipe": RECIPE, **SEARCH} | change
    with raises(BadRun, owner=str(finished), option=option):
        search(out=finished, budget=Budget.parse("20runs"), **arguments)


def test_a_locked_storage_ends_the_search(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "search"
    shutil.copytree(finished, out)
    monkeypatch.setattr("saccade.search.procedure.open_study", partial(open_study, timeout=0.2))
    with sqlite3.connect(out / "study.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with raises(BadRun, owner=str(out / "study.db"), option="storage", value="locked"):
            search(RECIPE, out, Budget.parse("20runs"), **SEARCH)
        other.rollback()
    other.close()
    assert search(RECIPE, out, Budget.parse("20runs"), **SEARCH)["finalists"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with raises(BadRun, owner=str(tmp_path), option="out", value="thesis.tex"):
        search(RECIPE, tmp_path, Budget.parse("20runs"), **SEARCH)


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with raises(BadOption, option="budget", value="5runs"):
        search(RECIPE, tmp_path / "runs", Budget.parse("5runs"), **SEARCH)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(BadOption) as caught:
        search(RECIPE, tmp_path / "time", Budget.parse("1s"), **(SEARCH | {"seeds": 100}))
    assert (caught.value.option, caught.value.value) == ("budget", "1s")
    assert "the 200 runs of the finalists (1 and none, 100 seeds each)" in str(caught.value)
    for name in ("finalists", "seeds"):
        with raises(BadOption, owner="search", option=name, value=0):
            search(RECIPE, tmp_path / "runs", Budget.parse("20runs"), **(SEARCH | {name: 0}))


def test_a_network_that_cannot_take_the_images(tmp_path: Path) -> None:
    recipe = replace(RECIPE, backbone="timm:vit_tiny_patch16_224")
    with raises(BadRecipe, option="backbone", value=recipe.backbone):
        search(recipe, tmp_path / "out", Budget.parse("20runs"), **SEARCH)
    assert not (tmp_path / "out").exists()


def test_a_candidate_that_diverges_is_reported_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(plan: Any, *rest: Any) -> None:
        if plan.attention and plan.attention.name == "se":
            raise BadRun("the training loss is nan", option="loss", value=float("nan"))
        train_candidate(plan, *rest)

    monkeypatch.setattr("saccade.search.execution.train_candidate", diverging)
    results = search(RECIPE, tmp_path, Budget.parse("20runs"), **SEARCH)
    states = {run["attention"]: (run["state"], run["reason"]) for run in results["runs"]}
    assert states["se@2"] == states["se@3"] == ("failed", "the training loss is nan")
    assert results["finalists"][0].startswith("eca")


def test_a_finalist_that_diverges_is_left_out(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its second seed, in a search whose candidates have been trained."""
    out = tmp_path / "search"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns(FINALISTS, "search.json"))
    (finalist,) = read_search(finished)["finalists"]
    trained: list[tuple[str, int]] = []

    def diverging(job: Job, _report: Any = None) -> Any:
        trained.append((job.plan.recipe.attention, job.plan.recipe.seed))
        if trained[-1] == (finalist, 0):
            raise BadRun("the training loss is nan", option="loss", value=float("nan"))
        return train(job.plan, job.folder, resume=True, logger="none")

    monkeypatch.setattr(Job, "train", diverging)
    results = search(RECIPE, out, Budget.parse("20runs"), **SEARCH)
    assert trained[:3] == [(BASELINE, 0), (finalist, 0), (BASELINE, 1)]
    assert (finalist, 1) not in trained
    assert results["finalists"] == []
    assert [row["attention"] for row in results["leaderboard"]] == [BASELINE]
    assert results["advice"]["sentence"].startswith("Nothing helped: the training of every finalist diverged")

    monkeypatch.undo()  # as with a recipe of the same space that does not diverge
    again = search(RECIPE, out, Budget.parse("20runs"), **SEARCH)
    assert again["finalists"] == [finalist]


def test_a_stopped_candidate_resumes_to_the_same_errors(tmp_path: Path) -> None:
    """As after a kill: a process left the run after an epoch."""
    plan = prepare(replace(RECIPE, attention="se@2"))
    complete: list[float] = []
    train_candidate(plan, tmp_path / "complete", keep_in(complete))

    class KilledError(Exception):
        pass

    def die(progress: Any) -> None:
        if progress.epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_candidate(plan, tmp_path / "killed", lambda *_: False, die)
    assert (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists()
    resumed: list[float] = []
    train_candidate(plan, tmp_path / "killed", keep_in(resumed))
    assert len(complete) == 3
    assert resumed == complete == validation_errors(tmp_path / "killed")


def test_a_pruned_candidate_stops_after_its_epoch(tmp_path: Path) -> None:
    plan = prepare(replace(RECIPE, attention="se@2"))
    train_candidate(plan, tmp_path / "run", lambda epoch, *_: epoch == 2)
    assert len(validation_errors(tmp_path / "run")) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment_it_goes_on(
    number: signal.Signals, finished: Path, server: ForkServer, tmp_path: Path
) -> None:
    """Killed when it chooses, trains candidates and trains finalists: the answer is that of one process."""
    moments = ["candidates/*/metrics.csv", "candidates/*/metrics.csv", f"{FINALISTS}/runs/*/metrics.csv"]
    out = tmp_path / "search"
    for moment in moments:
        before = {*out.glob(moment)}
        process = start(server, out)
        deadline = time.monotonic() + 120
        while {*out.glob(moment)} == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == (-number if number == signal.SIGKILL else 143)
        assert not (out / "search.json").exists()
    process = start(server, out)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(output) == read_search(out)
    check_same_training(read_search(out), read_search(finished))


def test_two_processes_work_on_one_study(server: ForkServer, tmp_path: Path) -> None:
    out = tmp_path / "search"
    processes = [start(server, out, number) for number in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (json.loads(output) for output, _ in outputs)
    assert first["advice"]["attention"] == second["advice"]["attention"]
    assert first["finalists"] == second["finalists"]
    assert {run["attention"] for run in first["runs"]} >= {BASELINE, "se@2", "se@3", "eca@2", "eca@3"}
    assert len(first["runs"]) == 5
    assert len([*(out / FINALISTS / "runs").glob("*/result.json")]) == 4


def test_the_command_prints_the_answer_last(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "search"
    shutil.copytree(finished, out)
    monkeypatch.setattr(sys, "argv", ["saccade", *ARGUMENTS, "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    output = capsys.readouterr().out
    sentence = read_search(out)["advice"]["sentence"].replace("\N{MINUS SIGN}", "-")
    assert sentence in output
    assert "mechanism: " in output
    assert "place: " in output
    assert "Pareto front of test error and latency: " in output
    assert f"report: {out / FINALISTS / 'report.html'}" in output
    assert os.path.getsize(out / FINALISTS / "report.html") > 10_000


def test_standard_output_is_json_alone_whatever_libraries_print(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray prints that a task is repeated to standard output."""
    shutil.copytree(finished, tmp_path / "search")

    def printing(*_: Any, **__: Any) -> SearchResults:
        sys.stdout.write("(raylet) Task failed\n")
        return read_search(finished)

    monkeypatch.setattr("saccade.search.search", printing)
    monkeypatch.setattr(sys, "argv", ["saccade", *ARGUMENTS, "--json", "--out", str(tmp_path / "search")])
    with pytest.raises(SystemExit):
        main()
    output, errors = capsys.readouterr()
    assert json.loads(output) == read_search(finished)
    assert "(raylet)" in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--budget", "soon"], "budget='soon' must be a time"),
        (["--max-latency", "fast"], "max_latency='fast' must be a positive number"),
        (["--max-flops", "+0.01%"], "no mechanism meets max_flops='+0.01%'; the nearest is 'eca@3'"),
        (["--backbone", "timm:resnet1O"], "unknown network of timm 'resnet1O'"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["saccade", *ARGUMENTS, "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("saccade: ")]
    assert expected in line
    assert not (tmp_path / "out").exists()
