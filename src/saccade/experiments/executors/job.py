"""Jobs, and the executor that trains them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from saccade.config import Plan
from saccade.results import RunResult
from saccade.training import LoggerName, Progress, train

Start = Callable[[int], None]
Report = Callable[[Progress], None] | None

#: How often a run whose process died is restarted.
RETRIES = 2


@dataclass(frozen=True)
class Job:
    """A run to be trained. It holds no tensors, so that it can be sent to another process.

    Attributes:
        plan: The prepared plan.
        folder: Folder of the run.
        logger: Where its curves go, see `saccade.training.train`.
        group: Name of the comparison.
    """

    plan: Plan
    folder: Path
    logger: LoggerName = "auto"
    group: str | None = None

    def train(self, report: Report = None) -> RunResult:
        """Train the run, or resume it."""
        return train(self.plan, self.folder, resume=True, report=report, logger=self.logger, group=self.group)


class Executor(Protocol):
    """Trains jobs."""

    def run(self, jobs: Sequence[Job], start: Start, report: Report) -> Iterator[tuple[int, RunResult]]:
        """Train jobs in any order.

        Args:
            jobs: The jobs.
            start: Called with the index of a job that starts.
            report: Called with the progress of a job, if the executor supports it.

        Yields:
            The index and the result of each job when it is done.
        """


@dataclass(frozen=True)
class Local:
    """Trains jobs one after another in this process."""

    def run(self, jobs: Sequence[Job], start: Start, report: Report) -> Iterator[tuple[int, RunResult]]:
        for number, job in enumerate(jobs):
            start(number)
            yield number, job.train(report)
