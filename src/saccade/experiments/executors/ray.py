"""Runs spread over a Ray cluster."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saccade.errors import BadOption, BadRun
from saccade.experiments.executors import RETRIES, Begin, Job, Report
from saccade.files import atomic_write
from saccade.results import RUN_RESULT, RunResult, read_run_result

_SECONDS = 10.0  # for a cluster to answer
Files = dict[str, bytes]


@dataclass(frozen=True)
class Ray:
    """One task of a Ray cluster for each run. The nodes need saccade and the data, and no shared folder.

    A run is trained in a folder of its node's own; its files come back when it is complete. A run whose
    worker or node dies is begun again elsewhere. Where the comparison's folder is on a disk that all nodes
    share, a run is trained in its place there, and goes on after its last whole epoch.

    address     HOST:PORT of the cluster, or "auto" for the one of this machine; by default a new one of
                this machine alone
    cpus, gpus  of each run; a fraction of a GPU lets several runs share one
    shared      whether all nodes share the comparison's folder

    Raises `BadOption` if no cluster answers at the address or it has no node with so many; `BadRun` if a
    run's workers die again and again.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    shared: bool = False

    def __post_init__(self) -> None:
        for name, least in (("cpus", 0), ("gpus", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
                raise BadOption(f"ray: {name}={value!r} must be a number of at least {least}")

    def run(self, jobs: Sequence[Job], begin: Begin, _report: Report) -> Iterator[tuple[int, RunResult]]:
        import ray

        if self.address not in (None, "auto"):
            _see_that_it_answers(str(self.address))
        try:
            dashboard = None if self.address else False
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=dashboard,
            )
        except ConnectionError as error:
            raise BadOption(f"no Ray cluster answers at {self.address!r}: {error}") from error
        try:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            self._see_that_it_has_room([node["Resources"] for node in nodes if node["Alive"]])
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_train_away)
            running = {}
            for number, job in enumerate(jobs):
                if (job.folder / RUN_RESULT).exists():
                    yield number, read_run_result(job.folder)
                else:
                    at_home = replace(job, folder=job.folder.resolve())  # a worker's folder is another one
                    running[task.remote(at_home, self.shared)] = number
            while running:
                (done,), _ = ray.wait([*running], num_returns=1)
                number = running.pop(done)
                folder = jobs[number].folder
                try:
                    files: Files = ray.get(done)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                    raise BadRun(f"{str(folder)!r}: its workers died {RETRIES + 1} times") from error
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # what was raised, in its own words
                begin(number)
                yield number, _keep(files, folder)
        finally:
            ray.shutdown()

    def _see_that_it_has_room(self, rooms: Sequence[dict[str, float]]) -> None:
        """A task that fits on no node would wait for ever."""
        if not any(room.get("CPU", 0) >= self.cpus and room.get("GPU", 0) >= self.gpus for room in rooms):
            there = ", ".join(f"{room.get('CPU', 0):g} and {room.get('GPU', 0):g}" for room in rooms)
            raise BadOption(
                f"no node has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a run; nodes have {there}"
            )


def _see_that_it_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        raise BadOption(f"{address!r} is not the address of a Ray cluster; it is of the form HOST:PORT")
    try:
        with socket.create_connection((host, int(port)), timeout=_SECONDS):
            pass
    except OSError as error:
        raise BadOption(f"no Ray cluster answers at {address!r}: {error}") from error


def _train_away(job: Job, shared: bool) -> Files:
    """Train, in a shared folder or one that is given up and whose files are returned. Runs on a worker."""
    if shared:
        job.train()
        return {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / job.folder.name
        replace(job, folder=folder).train()
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def _keep(files: Files, folder: Path) -> RunResult:
    """Write a run's files, its result last, since that says that the run is complete."""
    for name in sorted(files, key=lambda name: name == RUN_RESULT):
        with atomic_write(folder / name) as file:
            file.write(files[name])
    return read_run_result(folder)
