"""Jobs in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from saccade.errors import bad_run, check_positive
from saccade.experiments.grid import RETRIES, Job, Report, Start
from saccade.process_end import end_process_after
from saccade.results import RunResult

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Processes:
    """Trains several jobs at a time, in processes with an equal share of the cores.

    A process trains one job after the other, so that imports take their time once. A run whose process dies
    is resumed in another process from its last completed epoch, at most twice; other runs are unaffected.
    When this process is interrupted, or a run fails, the other processes are terminated: they save a
    checkpoint and exit, and this process waits for them. They also exit when this process dies.

    Args:
        jobs: Number of runs at a time.

    Raises:
        BadOption: `jobs` is not positive.
        BadRun: The processes of a run died three times.
    """

    jobs: int = 2

    def __post_init__(self) -> None:
        check_positive("processes", jobs=self.jobs)

    def run(self, jobs: Sequence[Job], start: Start, _report: Report) -> Iterator[tuple[int, RunResult]]:
        threads = max(1, torch.get_num_threads() // self.jobs)
        waiting, deaths = list(range(len(jobs))), [0] * len(jobs)
        idle: list[_Worker] = []
        running: dict[Connection, tuple[_Worker, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    number = waiting.pop(0)
                    start(number)
                    with blocked_signals():  # a process that is being started cannot be terminated
                        worker = idle.pop() if idle else _start(threads)
                        running[worker.connection] = worker, number
                    with suppress(OSError):  # it died in the meantime; to receive its result says so
                        worker.connection.send(jobs[number])
                for connection in [c for c in wait([*running]) if isinstance(c, Connection)]:
                    worker, number = running.pop(connection)
                    try:
                        result = connection.recv()
                    except (EOFError, OSError):
                        worker.close()
                        deaths[number] += 1
                        if deaths[number] > RETRIES:
                            problem = f"was not trained: its process died {deaths[number]} times"
                            raise bad_run(jobs[number].folder, problem) from None
                        waiting.insert(0, number)
                        continue
                    idle.append(worker)
                    if isinstance(result, Exception):
                        raise result
                    yield number, result
        finally:
            _stop([worker.process for worker, _ in running.values()])
            for worker in idle:
                worker.connection.close()  # lets all of them end at the same time
            for worker in idle:
                worker.process.join()


@dataclass(frozen=True)
class _Worker:
    """A process, and the connection over which it receives jobs and sends results."""

    process: SpawnProcess
    connection: Connection

    def close(self) -> None:
        """Let the process end, and wait for it."""
        self.connection.close()
        self.process.join()


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block ends. Processes that start in the block inherit the mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    received: list[int] = []  # through another thread, in which the signals are not blocked
    is_main = threading.current_thread() is threading.main_thread()  # other threads cannot set handlers
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (_SIGNALS if is_main else ())
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in received:
            signal.raise_signal(number)


def _start(threads: int) -> _Worker:
    """Start a process that trains jobs."""
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=end_process_after, args=(_work, other, threads))
    process.start()
    other.close()
    return _Worker(process, connection)


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Terminate processes and wait for them. A second interrupt kills them."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _work(connection: Connection, threads: int) -> None:
    """Train the jobs that arrive, and send their results or errors, until there are no more.

    SIGINT stays blocked: Ctrl-C reaches all processes of a terminal, and the main process terminates the
    others.
    """
    signal.signal(signal.SIGTERM, _exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_terminate_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(job.train())
        except Exception as error:
            error.add_note(traceback.format_exc())
            connection.send(error)


def _exit(number: int, _frame: object) -> None:
    """Exit in order: dying by the signal would leak resources that are shared with other processes."""
    raise SystemExit(128 + number)


def _terminate_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
