"""Executors: where the runs of a comparison are trained. Each gives results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import torch

from saccade.config import Plan
from saccade.errors import BadRun, check_positive
from saccade.results import RunResult
from saccade.training import Progress, train
from saccade.training.loggers import LoggerName

Begin = Callable[[int], None]
Report = Callable[[Progress], None] | None

#: How often a run is begun again, or gone on with, after the process that trained it died.
RETRIES = 2

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """A run to be trained, its folder, what gets its curves, and the comparison that it is part of."""

    plan: Plan
    folder: Path
    logger: LoggerName = "auto"
    group: str | None = None

    def train(self, report: Report = None) -> RunResult:
        """Train the run, or go on with it."""
        return train(self.plan, self.folder, resume=True, report=report, logger=self.logger, group=self.group)


class Executor(Protocol):
    """Trains jobs, in any order, and yields the number and the result of each when it is done.

    `begin` is told the number of a job that begins, `report`, where that is possible, how it goes.
    """

    def run(self, jobs: Sequence[Job], begin: Begin, report: Report) -> Iterator[tuple[int, RunResult]]: ...


@dataclass(frozen=True)
class Local:
    """One run after another, in this process."""

    def run(self, jobs: Sequence[Job], begin: Begin, report: Report) -> Iterator[tuple[int, RunResult]]:
        for number, job in enumerate(jobs):
            begin(number)
            yield number, job.train(report)


@dataclass(frozen=True)
class Processes:
    """Several runs at a time, each in a process of its own that shares the cores with the others.

    A run whose process dies goes on after its last whole epoch in another, at most `RETRIES` times; the
    others do not notice. When this process is interrupted, or a run fails, the others are asked to stop,
    write a checkpoint first, and are waited for. When it dies, they stop as well.

    Raises `BadRun` if a run's processes die that often.
    """

    count: int

    def __post_init__(self) -> None:
        check_positive("processes", jobs=self.count)

    def run(self, jobs: Sequence[Job], begin: Begin, _report: Report) -> Iterator[tuple[int, RunResult]]:
        threads = max(1, torch.get_num_threads() // self.count)
        waiting, deaths = list(range(len(jobs))), [0] * len(jobs)
        running: dict[Connection, tuple[SpawnProcess, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.count:
                    begin(waiting[0])
                    with blocked_signals():  # a process that is half begun could not be stopped
                        answer, process = _start(jobs[waiting[0]], threads)
                        running[answer] = process, waiting.pop(0)
                ready = wait([*running])
                for answer in [one for one in running if one in ready]:
                    process, number = running.pop(answer)
                    try:
                        result = answer.recv()
                    except EOFError:
                        deaths[number] += 1
                        if deaths[number] > RETRIES:
                            folder = str(jobs[number].folder)
                            raise BadRun(f"{folder!r}: its process died {deaths[number]} times") from None
                        waiting.insert(0, number)
                        continue
                    finally:
                        answer.close()
                        process.join()
                    if isinstance(result, Exception):
                        raise result
                    yield number, result
        finally:
            _stop([process for process, _ in running.values()])


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Put off what asks this process to stop until the block ends. Processes begun here inherit deafness."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    came: list[int] = []  # through another thread, which is not deaf
    is_main = threading.current_thread() is threading.main_thread()  # only there can signals be caught
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (_SIGNALS if is_main else ())
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came:
            signal.raise_signal(number)


def _start(job: Job, threads: int) -> tuple[Connection, SpawnProcess]:
    """Begin a job in a process of its own; return what its result will come through, and the process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(job, theirs, threads))
    process.start()
    theirs.close()
    return ours, process


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Ask processes to stop, once, and wait until they have; whoever asks again does not wait."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _train(job: Job, answer: Connection, threads: int) -> None:
    """Train, and send the result, or what went wrong. Runs in a process of its own.

    It stays deaf to Ctrl-C, which reaches all processes of a terminal: the first one asks the others to stop.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        answer.send(job.train())
    except Exception as error:
        error.add_note(traceback.format_exc())
        answer.send(error)


def _leave(number: int, _frame: object) -> None:
    """End this process in order; a signal by itself would leave what it shares with others behind."""
    raise SystemExit(128 + number)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
