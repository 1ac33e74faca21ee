"""Jobs on a Ray cluster."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saccade.errors import BadOption, bad_run, check_positive_number
from saccade.experiments.grid import RETRIES, Job, Report, Start
from saccade.files import atomic_write
from saccade.results import RUN_RESULT, RunResult, read_run_result

_TIMEOUT = 10.0  # seconds until a cluster must answer
Files = dict[str, bytes]


@dataclass(frozen=True)
class Ray:
    """Trains each job as a task of a Ray cluster. The nodes need saccade and the data.

    A run is trained in a temporary folder of its node, and its files are copied back when it is complete. A
    run whose worker or node dies is restarted on another. With `shared`, a run is trained in its final folder
    and is resumed from its last completed epoch.

    Args:
        address: HOST:PORT of the cluster, or "auto" for the one of this machine. By default, a new cluster on
            this machine is started.
        cpus: CPUs per run.
        gpus: GPUs per run. With a fraction, several runs share one GPU.
        shared: Whether all nodes share the folder of the comparison.

    Raises:
        BadOption: No cluster answers at the address, or none of its nodes has enough CPUs and GPUs.
        BadRun: The workers of a run died three times.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    shared: bool = False

    def __post_init__(self) -> None:
        check_positive_number("ray", cpus=self.cpus, **({"gpus": self.gpus} if self.gpus else {}))

    def run(self, jobs: Sequence[Job], start: Start, _report: Report) -> Iterator[tuple[int, RunResult]]:
        import ray

        if self.address not in (None, "auto"):
            _check_address(str(self.address))
        try:
            dashboard = None if self.address else False
            ray.init(
                self.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard
            )
        except ConnectionError as error:
            raise _no_answer(str(self.address), error) from error
        try:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            self._check_resources([node["Resources"] for node in nodes if node["Alive"]])
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_train_remote)
            running = {}
            for number, job in enumerate(jobs):
                if (job.folder / RUN_RESULT).exists():
                    yield number, read_run_result(job.folder)
                else:
                    resolved = replace(job, folder=job.folder.resolve())  # workers have another directory
                    running[task.remote(resolved, self.shared)] = number
            while running:
                (done,), _ = ray.wait([*running], num_returns=1)
                number = running.pop(done)
                folder = jobs[number].folder
                try:
                    files: Files = ray.get(done)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                    raise bad_run(folder, f"was not trained: its workers died {RETRIES + 1} times") from error
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # the original error
                start(number)
                yield number, _write(files, folder)
        finally:
            ray.shutdown()

    def _check_resources(self, nodes: Sequence[dict[str, float]]) -> None:
        """Check that a run fits on a node; otherwise its task would wait forever."""
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            available = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
            needed = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
            message = f"no node has {needed} for a run; the nodes have {available}"
            raise BadOption(message, owner="ray", option="cpus", value=self.cpus)


def _check_address(address: str) -> None:
    """Check that a cluster answers. Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        message = f"{address!r} is not the address of a Ray cluster; write HOST:PORT"
        raise BadOption(message, owner="ray", option="address", value=address)
    try:
        with socket.create_connection((host, int(port)), timeout=_TIMEOUT):
            pass
    except OSError as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> BadOption:
    message = f"no Ray cluster answers at {address!r}: {error}"
    return BadOption(message, owner="ray", option="address", value=address)


def _train_remote(job: Job, shared: bool) -> Files:
    """Train a job on a worker: in its shared folder, or in a temporary one whose files are returned."""
    if shared:
        job.train()
        return {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / job.folder.name
        replace(job, folder=folder).train()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _write(files: Files, folder: Path) -> RunResult:
    """Write the files of a run. The result is last, because its presence means that the run is complete."""
    for name in sorted(files, key=lambda name: name == RUN_RESULT):
        with atomic_write(folder / name) as file:
            file.write(files[name])
    return read_run_result(folder)
