"""Jobs on a Ray cluster, and calls of any function that works in the folder of a run."""

from __future__ import annotations

import logging
import math
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
        with closing(self.outcomes(jobs, start)) as outcomes:
            for number, outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                yield number, outcome

    def outcomes(
        self, jobs: Sequence[Job], start: Start
    ) -> Generator[tuple[int, RunResult | Exception], None, None]:
        """Train jobs as `run` does, and go on if one fails.

        Yields:
            The index of each job, and its result or its error.
        """
        numbers = {job.folder: number for number, job in enumerate(jobs)}
        with self.connect() as cluster:
            for number, job in enumerate(jobs):
                if (job.folder / RUN_RESULT).exists():
                    start(number)
                    yield number, read_run_result(job.folder)
                else:
                    cluster.submit(job.folder, _train, job)
            while cluster.running:
                folder, outcome = cluster.wait()
                start(numbers[folder])
                yield numbers[folder], outcome

    @contextmanager
    def connect(self) -> Iterator[Cluster]:
        """Connect to the cluster, or start one, until the block ends."""
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
            slots = self._slots([node["Resources"] for node in nodes if node["Alive"]])
            yield Cluster(self, slots)
        finally:
            ray.shutdown()

    def _slots(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many runs fit on the nodes. A run that fits on none would wait forever."""
        needed = {"CPU": self.cpus, "GPU": self.gpus}

        def fitting(node: Mapping[str, float]) -> int:
            parts = (node.get(name, 0) / amount for name, amount in needed.items() if amount)
            return math.floor(min(parts) + 1e-9)  # 0.3 / 0.1 is slightly below 3

        slots = sum(map(fitting, nodes))
        if not slots:
            available = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
            wanted = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
            message = f"no node has {wanted} for a run; the nodes have {available}"
            raise BadOption(message, owner="ray", option="cpus", value=self.cpus)
        return slots


class Cluster:
    """A cluster that calls functions in folders; see `Ray.connect`.

    Attributes:
        slots: Number of calls that run at a time; further calls wait.
        running: The folders of the calls that have not ended, by Ray's reference to the result.

    Args:
        options: CPUs and GPUs of a call, and whether all nodes share the folders.
        slots: Number of calls that run at a time.
    """

    def __init__(self, options: Ray, slots: int) -> None:
        self.slots = slots
        self.running: dict[Any, Path] = {}
        self._options = options
        self._task: Any = None  # the function as a task of Ray, once it is needed

    def submit(self, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function(folder, *arguments)` on a node. If its worker dies, it is called again.

        Without a shared folder, the function works in a temporary one, which has the files of `folder`.
        """
        import ray

        if self._task is None:
            amounts: dict[str, Any] = {"num_cpus": self._options.cpus, "num_gpus": self._options.gpus}
            self._task = ray.remote(**amounts, max_retries=RETRIES)(call_in_folder)
        resolved = folder.resolve()  # workers have another directory
        files = None if self._options.shared else read_files(resolved)
        self.running[self._task.remote(function, resolved, files, arguments)] = folder

    def wait(self) -> tuple[Path, Any]:
        """Wait until a call has ended.

        Returns:
            The folder, in which the files of the call are, and the value of the function or its exception: a
            `BadRun` with `option="workers"` if its workers died.
        """
        import ray

        (done,), _ = ray.wait([*self.running], num_returns=1)
        folder = self.running.pop(done)
        try:
            value, files = ray.get(done)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            problem = f"was not trained: its workers died {RETRIES + 1} times"
            died = bad_run(folder, problem, "workers", RETRIES + 1)
            died.__cause__ = error
            return folder, died
        except ray.exceptions.RayTaskError as error:
            error.cause.__cause__ = error  # it has the traceback of the worker
            return folder, error.cause
        write_files(folder, files)
        return folder, value


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


def call_in_folder(
    function: Callable[..., Any], folder: Path, files: Files | None, arguments: Sequence[Any]
) -> tuple[Any, Files]:
    """Call a function on a worker: in a shared folder, or in a temporary one whose files are returned.

    Args:
        function: Called with the folder and the arguments.
        folder: The folder, whose name the temporary one has.
        files: Files of the folder, or None if it is shared.
        arguments: Further arguments.
    """
    if files is None:
        return function(folder, *arguments), {}
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / folder.name
        write_files(temporary, files)
        return function(temporary, *arguments), read_files(temporary)


def read_files(folder: Path) -> Files:
    """Return the content of all files in a folder by their relative path; empty if there is no folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_files(folder: Path, files: Files) -> None:
    """Write files into a folder. If the process is killed meanwhile, the run in the folder is still correct.

    Checkpoints follow the curves that they continue. The result is last: its presence means that the run is
    complete.
    """
    for name in sorted(files, key=lambda name: (name == RUN_RESULT, name.endswith(".ckpt"))):
        with atomic_write(folder / name) as file:
            file.write(files[name])


def _train(folder: Path, job: Job) -> RunResult:
    return replace(job, folder=folder).train()
