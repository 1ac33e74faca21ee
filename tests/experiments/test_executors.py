"""Executors: the leaderboard does not depend on where runs are trained, nor on workers that die."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from saccade.config import Recipe, resolve
from saccade.errors import BadOption, BadRun, UnknownName
from saccade.experiments import Comparison, Executor, Job, Processes, Ray, compare
from saccade.experiments.executors import ray as over_ray
from saccade.experiments.executors.processes import blocked_signals
from saccade.results import LOCK
from saccade.training import load_checkpoint
from support.cluster import command
from support.dying import die
from support.errors import raises
from support.forked import Child, ForkServer

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
COMPARISON = Comparison(("none", "se"), 2, Recipe(task=TASK, epochs=2, batch_size=20))


def lasting(summary: Mapping[str, Any]) -> Any:
    """A leaderboard without its times."""
    rows = json.loads(json.dumps(summary["leaderboard"]))
    return [{k: v for k, v in row.items() if k not in ("latency_ms", "train_seconds")} for row in rows]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lasting(compare(COMPARISON, tmp_path_factory.mktemp("local") / "out"))


class Watch:
    """Records which runs start and finish."""

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


HAS_TENSORBOARD = any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX")))


def logged(out: Path) -> int:
    """Count the runs of a comparison that have TensorBoard files."""
    return len({path.parents[1] for path in out.glob("runs/*/tensorboard/events.*")})


def kill_a_run(out: Path, watch: Watch) -> None:
    """Kill the process of the run that first writes a checkpoint."""
    while not (found := [*out.glob("runs/*/checkpoints/last.ckpt")]):
        time.sleep(0.01)
    pid, _ = (found[0].parents[1] / LOCK).read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    watch.killed = True


def test_processes_of_which_one_is_killed_give_the_local_leaderboard(local: Any, tmp_path: Path) -> None:
    watch, out = Watch(), tmp_path / "out"
    threading.Thread(target=kill_a_run, args=(out, watch), daemon=True).start()
    summary = compare(COMPARISON, out, watch, Processes(2))
    assert watch.killed
    assert len(watch.errors) == 4
    assert len(watch.begun) == 5  # only the killed run was restarted
    assert lasting(summary) == local
    assert logged(out) == HAS_TENSORBOARD * 4


def test_a_run_that_kills_its_process_again_and_again_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_work", "end_process_after"):
        monkeypatch.setattr(f"saccade.experiments.executors.processes.{name}", die)
    with raises(BadRun, owner=str(tmp_path / "run-0")):
        list(Processes(1).run([Job(resolve(Recipe()), tmp_path / "run-0")], lambda _: None, None))


class _Named:
    """A job that returns the number of its process, or raises an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.folder, self.error = Path("run"), error

    def train(self) -> int:
        if self.error:
            raise self.error
        return os.getpid()


def _run(*jobs: _Named) -> Iterator[tuple[int, Any]]:
    return Processes(1).run(cast("list[Job]", [*jobs]), lambda _: None, None)


def test_a_process_trains_one_job_after_the_other_and_sends_their_errors() -> None:
    results = _run(_Named(), _Named(), _Named(OSError("a file of the user")))
    (_, first), (_, second) = next(results), next(results)
    assert first == second != os.getpid()
    with pytest.raises(OSError, match="a file of the user"):
        next(results)


@pytest.mark.parametrize("kind", [EOFError, ValueError])
def test_the_error_of_a_job_is_raised_here(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a file of the user"):
        next(_run(_Named(kind("a file of the user"))))


def test_errors_of_ours_cross_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(UnknownName("mechanism", "cbm", ["cbam"])))
    assert str(error) == "unknown mechanism 'cbm'; did you mean 'cbam'?"


# ----------------------------------------------------------------------------- processes that are stopped

LONG = Comparison(
    ("none", "se"),
    1,
    Recipe(task="white-patch:size=32,patch=[6,12],train=800,validation=20,test=20", epochs=3, batch_size=4),
)
STEPS = 200  # of an epoch


def start(server: ForkServer, out: Path, workers: int) -> Child:
    """Start the command in its own process group, as a terminal does."""
    LONG.write(out.with_suffix(".yaml"))
    words = ("compare", "--recipe", str(out.with_suffix(".yaml")), "--out", str(out))
    return server.start((*words, "--executor", "processes", "--jobs", str(workers)), out.with_name("work"))


def wait_for(process: Child, event: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not event():
        assert process.poll() is None, process.read("err")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers(process: Child) -> list[int]:
    return of_group(process.pid, "spawn_main")


def learned(out: Path, process: Child) -> list[Path]:
    """Return the current runs that have completed an epoch."""
    found = [path.parent for path in out.glob("runs/*/metrics.csv") if (path.parent / LOCK).exists()]
    return [run for run in found if int((run / LOCK).read_text().split()[0]) in workers(process)]


def of_group(leader: int, words: str) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if words in command(pid) and group(pid) == leader]


def wait_until_gone(leader: int) -> None:
    """Wait for all processes of the group. Those that have ended and wait for init have no command."""
    deadline = time.monotonic() + 30
    while any(command(pid) for pid in of_group(leader, "")):
        assert time.monotonic() < deadline, [command(pid) for pid in of_group(leader, "")]
        time.sleep(0.01)


def group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def steps(out: Path) -> list[int]:
    return [load_checkpoint(path)["global_step"] for path in out.glob("runs/*/checkpoints/last.ckpt")]


def test_no_signal_comes_between_while_a_process_is_begun() -> None:
    """This includes signals to other threads, whose handlers run in the main thread."""
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with blocked_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert not came
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        done.set()


def test_a_comparison_that_is_stopped_ends_its_processes_and_goes_on(
    server: ForkServer, tmp_path: Path
) -> None:
    """Ctrl-C reaches all processes of the group, SIGTERM only the first one."""
    out = tmp_path / "out"
    process = start(server, out, 2)
    wait_for(process, lambda: len(learned(out, process)) == 2)
    time.sleep(0.2)  # the end of an epoch is over
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said == "saccade: interrupted; run the same command again to continue\n"
    assert process.returncode == 130
    wait_until_gone(process.pid)
    assert len(steps(out)) == 2
    assert all(0 < done < 3 * STEPS for done in steps(out))
    assert any(done % STEPS for done in steps(out))  # inside an epoch

    process = start(server, out, 1)
    wait_for(process, lambda: bool(workers(process)))  # just after its start
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert said == "saccade: terminated; run the same command again to continue\n"
    assert process.returncode == 143
    wait_until_gone(process.pid)

    assert lasting(compare(LONG, out)) == lasting(compare(LONG, tmp_path / "uninterrupted"))


@pytest.mark.slow
def test_the_processes_of_a_comparison_that_is_killed_stop_as_well(
    server: ForkServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(server, out, 1)
    wait_for(process, lambda: len(learned(out, process)) == 1)
    process.kill()
    process.communicate(timeout=60)
    wait_until_gone(process.pid)
    assert 0 < steps(out)[0] < 3 * STEPS


# ------------------------------------------------------------------------------------------------- Ray


class KillWorker(Watch):
    """Kills one worker of the cluster while it trains."""

    def finished(self, results: list[Any]) -> None:
        self.errors.append(results[-1]["error"])
        if not self.killed:
            deadline = time.monotonic() + 20
            while not self.killed and time.monotonic() < deadline:
                for entry in Path("/proc").iterdir():
                    if entry.name.isdigit() and command(int(entry.name)).startswith("ray::call_in_folder"):
                        os.kill(int(entry.name), signal.SIGKILL)
                        self.killed = True
                        break
                time.sleep(0.01)  # the worker needs the core


def test_a_cluster_of_which_a_worker_is_killed_gives_the_local_leaderboard(
    cluster: str, local: Any, tmp_path: Path
) -> None:
    watch = KillWorker()
    executor: Executor = Ray(cluster)
    summary = compare(COMPARISON, tmp_path / "out", watch, executor)
    assert watch.killed
    assert lasting(summary) == local
    assert all((tmp_path / "out" / run["folder"] / "gallery.npz").exists() for run in summary["runs"])
    assert logged(tmp_path / "out") == HAS_TENSORBOARD * 4
    with raises(BadOption, owner="ray", option="cpus", value=64):
        list(Ray(cluster, cpus=64).run([Job(resolve(Recipe()), tmp_path / "run")], lambda _: None, None))
    bad = Job(resolve(replace(COMPARISON.training, objective="classfy")), tmp_path / "bad")
    with raises(UnknownName, owner="objective", value="classfy"):
        list(Ray(cluster).run([bad], lambda _: None, None))


def test_files_of_a_node_of_its_own_come_back_and_those_on_a_shared_disk_stay(tmp_path: Path) -> None:
    job, folder = Job(resolve(replace(COMPARISON.training, epochs=1)), Path("unused")), tmp_path / "run"
    result, files = over_ray.call_in_folder(over_ray._train, folder, {}, [job])
    assert {"result.json", "checkpoints/last.ckpt", "metrics.csv"} <= files.keys()
    assert not folder.exists()
    assert over_ray.call_in_folder(over_ray._train, folder, None, [job])[1] == {}
    assert (folder / "result.json").exists()
    before = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    (folder / "result.json").unlink()  # a worker that died before the end
    again, files = over_ray.call_in_folder(over_ray._train, folder, None, [job])
    assert (again["error"], again["curves"]) == (result["error"], result["curves"])
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before  # it was not restarted


def test_a_temporary_folder_has_the_files_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run" / "x").mkdir(parents=True)
    (tmp_path / "run" / "x" / "a").write_text("old")

    def extend(folder: Path, text: str) -> str:
        assert folder != tmp_path / "run"
        (folder / "b").write_text(text)
        return (folder / "x" / "a").read_text()

    files = over_ray.read_files(tmp_path / "run")
    value, files = over_ray.call_in_folder(extend, tmp_path / "run", files, ["new"])
    assert (value, files) == ("old", {"x/a": b"old", "b": b"new"})
    assert over_ray.read_files(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"), [(1, 0, 6), (2, 0, 3), (0.1, 0, 60), (1, 0.25, 2), (1, 1, 1), (4, 0, 1)]
)
def test_slots_are_the_runs_that_fit_on_the_nodes(cpus: float, gpus: float, slots: int) -> None:
    nodes = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0}, {"memory": 1.0}]
    assert Ray(cpus=cpus, gpus=gpus)._slots(nodes) == slots


def test_what_fits_on_no_node_has_no_slot() -> None:
    with raises(BadOption, owner="ray", option="cpus", value=1):
        Ray(gpus=2)._slots([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0}])


def test_an_address_where_no_cluster_answers(tmp_path: Path) -> None:
    begun = time.monotonic()
    with raises(BadOption, owner="ray", option="address", value="127.0.0.1:1"):
        list(Ray("127.0.0.1:1").run([Job(resolve(Recipe()), tmp_path)], lambda _: None, None))
    assert time.monotonic() - begun < 15
    with raises(BadOption, owner="ray", option="address", value="somewhere"):
        list(Ray("somewhere").run([], lambda _: None, None))


def test_bad_amounts() -> None:
    with raises(BadOption, owner="ray", option="gpus", value=-1):
        Ray(gpus=-1)
    with raises(BadOption, owner="processes", option="jobs", value=0):
        Processes(0)


def test_files_arrive_with_the_result_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    from saccade.files import atomic_write

    def noted(path: Path) -> Any:
        order.append(path.name)
        return atomic_write(path)

    monkeypatch.setattr(over_ray, "atomic_write", noted)
    files = {"result.json": b"0", "x/last.ckpt": b"1", "metrics.csv": b"2"}
    over_ray.write_files(tmp_path, files)
    assert over_ray.read_files(tmp_path) == files
    assert order == ["metrics.csv", "last.ckpt", "result.json"]
