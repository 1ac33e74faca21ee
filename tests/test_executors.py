"""Executors: the same leaderboard wherever the runs are trained, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.compare import Comparison, compare
from saccade.compare.executors import Executor, Job, Processes
from saccade.compare.executors import ray as over_ray
from saccade.compare.executors.ray import Ray
from saccade.errors import BadOption, BadRun, UnknownName
from saccade.train import Recipe

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
COMPARISON = Comparison(("none", "se"), 2, Recipe(task=TASK, epochs=2, batch_size=20))


def lasting(summary: dict[str, Any]) -> Any:
    """A leaderboard without its times."""
    rows = json.loads(json.dumps(summary["leaderboard"]))
    return [{k: v for k, v in row.items() if k not in ("latency_ms", "train_seconds")} for row in rows]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lasting(compare(COMPARISON, tmp_path_factory.mktemp("local") / "out"))


class Watch:
    """Kills the first process that trains, once."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.errors: list[float] = []
        self.killed = False

    def started(self, _recipe: Recipe, number: int, of: int) -> None:
        assert of == 4
        self.begun.append(number)

    def progressed(self, progress: Any) -> None: ...

    def finished(self, results: list[Any]) -> None:
        self.errors.append(results[-1]["error"])
        if not self.killed:
            self.killed = True
            victim = next(pid for pid in children(os.getpid()) if "spawn_main" in command(pid))
            os.kill(victim, signal.SIGKILL)


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_processes_of_which_one_is_killed_give_the_local_leaderboard(local: Any, tmp_path: Path) -> None:
    watch = Watch()
    summary = compare(COMPARISON, tmp_path / "out", watch, Processes(2))
    assert watch.killed
    assert len(watch.errors) == 4
    assert len(watch.begun) > 4  # the one that was killed began again
    assert lasting(summary) == local


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_kills_its_process_again_and_again_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.compare.executors._train", _die)
    with pytest.raises(BadRun, match=r"run-0': its process died 3 times"):
        list(Processes(1).run([Job(Recipe(), tmp_path / "run-0")], lambda _: None, None))


def test_errors_of_ours_cross_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(UnknownName("mechanism", "cbm", ["cbam"])))
    assert str(error) == "unknown mechanism 'cbm'; did you mean 'cbam'?"


# ------------------------------------------------------------------------------------------------- Ray


def ray(*arguments: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        env=env, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def started_since(before: set[int], temporary: Path) -> list[int]:
    """Our cluster's processes: those that began meanwhile and name its folder."""
    pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - before
    return [pid for pid in pids if str(temporary) in command(pid)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two nodes of one CPU each, of processes of this machine. Only they are ended."""
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # the paths of its sockets must be short
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(temporary / "token"))
    (temporary / "token").write_text("0123456789abcdef0123456789abcdef")
    before = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.2:{port}"
    size = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000")
    head = ("--head", "--node-ip-address=127.0.0.2", f"--port={port}", f"--temp-dir={temporary}")
    try:
        ray("start", *head, *size, "--include-dashboard=false", "--disable-usage-stats", env=dict(os.environ))
        ray("start", f"--address={address}", "--node-ip-address=127.0.0.3", *size, env=dict(os.environ))
        yield address
    finally:
        for pid in started_since(before, temporary):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(temporary, ignore_errors=True)


class KillWorker(Watch):
    """Kills a worker of the cluster that is training, once."""

    def finished(self, results: list[Any]) -> None:
        self.errors.append(results[-1]["error"])
        if not self.killed:
            deadline = time.monotonic() + 20
            while not self.killed and time.monotonic() < deadline:
                for entry in Path("/proc").iterdir():
                    if entry.name.isdigit() and command(int(entry.name)).startswith("ray::_train_away"):
                        os.kill(int(entry.name), signal.SIGKILL)
                        self.killed = True
                        break


def test_a_cluster_of_which_a_worker_is_killed_gives_the_local_leaderboard(
    cluster: str, local: Any, tmp_path: Path
) -> None:
    watch = KillWorker()
    executor: Executor = Ray(cluster)
    summary = compare(COMPARISON, tmp_path / "out", watch, executor)
    assert watch.killed
    assert lasting(summary) == local
    assert all((tmp_path / "out" / run["folder"] / "gallery.npz").exists() for run in summary["runs"])
    with pytest.raises(BadOption, match=r"no node has 64 CPUs and 0 GPUs .* nodes have 1 and 0, 1 and 0"):
        list(Ray(cluster, cpus=64).run([Job(Recipe(), tmp_path / "run")], lambda _: None, None))


def test_an_address_where_no_cluster_answers(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(BadOption, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        list(Ray("127.0.0.1:1").run([Job(Recipe(), tmp_path)], lambda _: None, None))
    assert time.monotonic() - begun < 15
    with pytest.raises(BadOption, match="'somewhere' is not the address of a Ray cluster"):
        list(Ray("somewhere").run([], lambda _: None, None))


def test_bad_amounts() -> None:
    with pytest.raises(BadOption, match=r"ray: gpus=-1 must be a number of at least 0"):
        Ray(gpus=-1)
    with pytest.raises(BadOption, match=r"processes: workers=0 must be"):
        Processes(0)


def test_files_arrive_with_the_result_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    from saccade.files import replacing

    def noted(path: Path) -> Any:
        order.append(path.name)
        return replacing(path)

    monkeypatch.setattr(over_ray, "replacing", noted)
    result = over_ray._keep({"result.json": b'{"error": 0}', "x/last.ckpt": b"1", "a.csv": b"2"}, tmp_path)
    assert result == {"error": 0}
    assert order == ["last.ckpt", "a.csv", "result.json"]
