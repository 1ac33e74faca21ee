"""Candidates on a Ray cluster: from rung to rung, several at a time, and whatever dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saccade.config import Recipe
from saccade.errors import BadOption, BadRun
from saccade.experiments import Ray
from saccade.experiments.executors.ray import call_in_folder, write_files
from saccade.results import BASELINE, SearchResults, SearchRun, read_search
from saccade.search import FINALISTS, Budget, open_study, search
from saccade.search.candidate import train_candidate, train_to_rung, validation_errors
from saccade.search.execution import Candidates
from saccade.search.finalists import train_finalists
from saccade.training import load_checkpoint, prepare
from support.cluster import all_pids, command
from support.errors import raises
from support.forked import Child, ForkServer
from support.spaces import make_space

TASK = "white-patch:size=32,train=100,validation=60,test=60"
RECIPE = Recipe(task=TASK, epochs=9, attention=BASELINE)
MECHANISMS = ("se", "eca", "simam")


class Cluster:
    """What `Ray.connect` returns, without Ray: a call runs when it is waited for, the latest first."""

    slots = 2

    def __init__(self, calls: list[tuple[str, int]]) -> None:
        self.calls, self.running = calls, []  # type: ignore[var-annotated]

    def submit(self, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
        assert len(self.running) < self.slots
        self.running.append((folder, function, arguments))

    def wait(self) -> tuple[Path, Any]:
        folder, function, arguments = self.running.pop()
        self.calls.append((arguments[0].recipe.attention, arguments[1]))
        try:
            return folder, function(folder, *arguments)
        except BadRun as error:
            return folder, error


class Without(Ray):
    """A cluster without Ray."""

    calls: list[tuple[str, int]] = []  # noqa: RUF012  (a dataclass would make a field of it)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        yield Cluster(self.calls)


def space() -> Any:
    """Three mechanisms after stage 2."""
    candidates = make_space(1, 1)["candidates"]
    return make_space(1, 1) | {
        "candidates": [
            candidates[0] | {"attention": f"{name}@2", "mechanism": name, "place": "2", "refused": None}
            for name in MECHANISMS
        ]
    }


class Curves:
    """Validation errors of nine epochs: the second candidate is the best, and the last ones are bad."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}

    def __call__(self, name: str) -> list[float]:
        if name not in self.ends:
            self.ends[name] = [0.3, 0.2, 0.5, 0.6][len(self.ends)]
        return [self.ends[name] + 0.1 / epoch for epoch in range(1, 10)]


def train_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Any]
) -> tuple[dict[str, SearchRun], list[tuple[str, int]]]:
    """Train all candidates with a function in place of `train_to_rung`; return the runs and the calls."""
    monkeypatch.setattr("saccade.search.execution.train_to_rung", train)
    monkeypatch.setattr(Without, "calls", [])
    with open_study(tmp_path, space(), 9) as study:
        Candidates(study, RECIPE, tmp_path, lambda: True, None).train_on(Without())
        return {run["attention"]: run for run in study.runs()}, Without.calls


def test_candidates_go_from_rung_to_rung_until_they_are_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = Curves()

    def train(folder: Path, plan: Any, rung: int) -> tuple[list[float], float]:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        return curves(plan.recipe.attention)[:rung], 2.0

    runs, calls = train_all(tmp_path, monkeypatch, train)
    assert {run["attention"] for run in runs.values()} == {BASELINE, *(f"{name}@2" for name in MECHANISMS)}
    for name, run in runs.items():
        rungs = [rung for called, rung in calls if called == name]
        assert rungs == [1, 3, 9][: len(rungs)]
        assert run["epochs"] == rungs[-1]
        assert run["error"] == curves(name)[rungs[-1] - 1]
        assert run["first_error"] == curves(name)[0]
        assert run["seconds"] == 2.0 * len(rungs)
        assert run["state"] == ("complete" if rungs[-1] == 9 else "stopped")
    assert runs[BASELINE]["state"] == "complete"
    assert min(runs.values(), key=lambda run: run["error"] or 1.0)["state"] == "complete"
    assert "stopped" in {run["state"] for run in runs.values()}
    assert not [*tmp_path.glob("candidates/*/checkpoints")]


@pytest.mark.parametrize("option", ["loss", "workers"])
def test_a_candidate_that_fails_is_reported_and_the_others_go_on(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_folder: Path, plan: Any, rung: int) -> tuple[list[float], float]:
        if plan.recipe.attention == "se@2" and rung > 1:
            raise BadRun("its workers died 3 times", option=option)
        return [0.1 if plan.recipe.attention == "se@2" else 0.5] * rung, 2.0

    runs, _ = train_all(tmp_path, monkeypatch, train)
    assert (runs["se@2"]["state"], runs["se@2"]["reason"]) == ("failed", "its workers died 3 times")
    assert len(runs) == 4
    assert "running" not in {run["state"] for run in runs.values()}


@pytest.mark.parametrize(("attention", "option"), [(BASELINE, "loss"), ("se@2", "disk")])
def test_what_no_candidate_can_survive_ends_the_search(
    attention: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_folder: Path, plan: Any, rung: int) -> tuple[list[float], float]:
        if plan.recipe.attention == attention:
            raise BadRun("it ends", option=option)
        return [0.5] * rung, 2.0

    with raises(BadRun, option=option):
        train_all(tmp_path, monkeypatch, train)


def test_from_rung_to_rung_on_different_nodes_the_errors_are_those_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has another temporary folder, to which the checkpoint comes with the files.

    Although the epochs are too short for a report in between, no call trains beyond its rung.
    """
    clock = SimpleNamespace(perf_counter=partial(next, count(1000.0, 0.001)))
    monkeypatch.setattr("saccade.training.callbacks.history.time", clock)
    plan = prepare(Recipe(task=TASK, epochs=3, attention="se@2"))
    train_candidate(plan, tmp_path / "one", lambda *_: False)
    files: Any = {}
    for rung in (1, 2, 2, 3):  # the second call of 2 finds that nothing is left to do
        (errors, seconds), files = call_in_folder(train_to_rung, tmp_path / "run", files, [plan, rung])
        assert errors == validation_errors(tmp_path / "one")[:rung]
        assert seconds > 0
        write_files(tmp_path / f"{rung}", files)
        assert len(validation_errors(tmp_path / f"{rung}")) == rung
        checkpoint = load_checkpoint(tmp_path / f"{rung}" / "checkpoints" / "last.ckpt")
        assert checkpoint["global_step"] == 2 * min(rung, 2)  # the last epoch needs no checkpoint
    assert len(errors) == 3
    assert not (tmp_path / "run").exists()


def test_a_budget_counts_the_candidates_in_training(tmp_path: Path) -> None:
    with open_study(tmp_path, space(), 9) as study:
        started = 0
        while study.is_within(Budget.parse("3"), reserved=2 + 5 / 9):
            assert study.ask() is not None
            started += 1
        assert started == 4  # each takes a ninth of a run to the first rung, and four ninths are left


class Busy(Ray):
    """A cluster on which another command trains the first run, and eca diverges."""

    tried: list[str] = []  # noqa: RUF012  (a dataclass would make a field of it)

    def outcomes(self, jobs: Any, start: Any) -> Any:
        for number, job in enumerate(jobs):
            start(number)
            self.tried.append(job.folder.name)
            if len(self.tried) == 1:
                yield number, BadRun("it is in use", option="lock")
            elif job.plan.recipe.attention == "eca@2":
                yield number, BadRun("the training loss is nan", option="loss")
            else:
                yield number, job.train()


def test_finalists_on_a_cluster_wait_for_other_commands_and_may_diverge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.search.finalists.PAUSE", 0.0)
    monkeypatch.setattr(Busy, "tried", [])
    recipe = Recipe(task=TASK, epochs=1)
    results, diverged = train_finalists(
        recipe, ["se@2", "eca@2"], 1, tmp_path / "finalists", logger="none", executor=Busy()
    )
    assert Busy.tried == ["none-seed0", "se-2-seed0", "eca-2-seed0", "none-seed0"]
    assert [row["attention"] for row in results["leaderboard"]] == [BASELINE, "se@2"]
    assert diverged == ["eca@2"]


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with raises(BadOption, owner="ray", option="address", value="127.0.0.1:1"):
        search(RECIPE, tmp_path / "out", Budget.parse("30"), mechanisms=["se"], executor=Ray("127.0.0.1:1"))


# ---------------------------------------------------------------------------------------- with Ray itself

ARGUMENTS = [
    *("search", TASK, "-a", "se", "-a", "eca", "--where", "2", "--epochs", "3"),
    *("--finalists", "1", "--seeds", "2", "--budget", "20runs"),
]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> SearchResults:
    """The search of `ARGUMENTS` in this process."""
    return search(
        Recipe(task=TASK, epochs=3),
        tmp_path_factory.mktemp("local") / "out",
        Budget.parse("20"),
        mechanisms=["se", "eca"],
        where=["2"],
        finalists=1,
        seeds=2,
    )


def wait_for(process: Child, event: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not event():
        assert process.poll() is None, process.read("err")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_a_worker(killed: list[int]) -> None:
    """Kill the first worker of a cluster that trains."""
    deadline = time.monotonic() + 300
    while not killed and time.monotonic() < deadline:
        for pid in all_pids():
            if command(pid).startswith("ray::call_in_folder"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
        time.sleep(0.02)


@pytest.mark.parametrize("shared", [(), ("--shared",)], ids=["copied", "shared"])
def test_a_search_on_a_cluster_survives_kills_and_has_the_errors_of_one_process(
    shared: tuple[str, ...],
    nodes: tuple[str, Mapping[str, str]],
    local: SearchResults,
    server: ForkServer,
    tmp_path: Path,
) -> None:
    """The command is killed when the first rung is there, then a worker of the command that continues."""
    address, access = nodes
    out = tmp_path / "out"
    arguments = (*ARGUMENTS, "--out", str(out), "--executor", "ray", "--address", address, *shared)
    process = server.start(arguments, tmp_path / "first", environment=access)
    wait_for(process, lambda: [*out.glob("candidates/*/checkpoints/last.ckpt")])
    process.kill()
    process.wait(60)
    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(killed,), daemon=True)
    thread.start()
    process = server.start((*arguments, "--json"), tmp_path / "second", environment=access)
    output, errors = process.communicate(timeout=600)
    thread.join(10)
    results = read_search(out)
    assert json.loads(output) == results, errors
    assert killed
    runs = {run["attention"]: run for run in results["runs"]}
    assert {*runs} == {BASELINE, "se@2", "eca@2"}
    for run in local["runs"]:
        assert runs[run["attention"]]["first_error"] == run["first_error"]
        if runs[run["attention"]]["epochs"] == run["epochs"]:
            assert runs[run["attention"]]["error"] == run["error"]
    tested = {row["attention"]: row["error"] for row in results["leaderboard"]}
    assert tested[BASELINE] == local["leaderboard"][0]["error"]
    assert len([*(out / FINALISTS / "runs").glob("*/result.json")]) == 4
    assert not [*out.glob("candidates/*/checkpoints")]
