"""Executors: where the runs of a comparison are trained. Each gives results as they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from saccade.compare.leaderboard import Result
from saccade.errors import BadRun, check_positive
from saccade.train import Progress, Recipe, train

Begin = Callable[[int], None]
Report = Callable[[Progress], None] | None

#: How often a run is begun again, or gone on with, after the process that trained it died.
RETRIES = 2


@dataclass(frozen=True)
class Job:
    """A run to be trained, and its folder."""

    recipe: Recipe
    folder: Path


class Executor(Protocol):
    """Trains jobs, in any order, and yields the number and the result of each when it is done.

    `begin` is told the number of a job that begins, `report`, where that is possible, how it goes.
    """

    def run(self, jobs: Sequence[Job], begin: Begin, report: Report) -> Iterator[tuple[int, Result]]: ...


@dataclass(frozen=True)
class Local:
    """One run after another, in this process."""

    def run(self, jobs: Sequence[Job], begin: Begin, report: Report) -> Iterator[tuple[int, Result]]:
        for number, job in enumerate(jobs):
            begin(number)
            yield number, train(job.recipe, job.folder, resume=True, report=report)


@dataclass(frozen=True)
class Processes:
    """Several runs at a time, each in a process of its own that shares the cores with the others.

    A run whose process dies goes on after its last whole epoch in another, at most `RETRIES` times. When this
    process is interrupted, or a run fails, the others are asked to stop, and write a checkpoint first.

    Raises `BadRun` if a run's processes die that often.
    """

    count: int

    def __post_init__(self) -> None:
        check_positive("processes", workers=self.count)

    def run(self, jobs: Sequence[Job], begin: Begin, _report: Report) -> Iterator[tuple[int, Result]]:
        threads = max(1, torch.get_num_threads() // self.count)
        waiting, deaths = list(range(len(jobs))), [0] * len(jobs)
        while waiting:
            context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
            with ProcessPoolExecutor(self.count, context, torch.set_num_threads, (threads,)) as pool:
                # As many as run, so that when one dies those that are lost with it are known.
                running: dict[Future[Result], int] = {}
                try:
                    while waiting or running:
                        while waiting and len(running) < self.count:
                            begin(waiting[0])
                            running[pool.submit(_train, jobs[waiting[0]])] = waiting[0]
                            del waiting[0]
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            number = running[future]
                            result = future.result()
                            del running[future]
                            yield number, result
                except BrokenProcessPool as error:
                    for number in running.values():
                        deaths[number] += 1
                        if deaths[number] > RETRIES:
                            folder = str(jobs[number].folder)
                            raise BadRun(f"{folder!r}: its process died {deaths[number]} times") from error
                    waiting = [*running.values(), *waiting]
                except BaseException:
                    for process in multiprocessing.active_children():
                        if process not in others:
                            process.terminate()
                    raise


def _train(job: Job) -> Result:
    return train(job.recipe, job.folder, resume=True)
