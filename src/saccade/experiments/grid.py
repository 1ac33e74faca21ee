"""The comparison: a grid of runs. Completed runs are kept, so that a comparison can be killed and resumed.

Each run is a job, and an executor trains jobs: `Local` in this process, those of `executors/` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from saccade.config import Comparison, Plan, Recipe, folder_name, resolve
from saccade.errors import bad_run
from saccade.results import (
    RUN_RESULT,
    ComparisonResults,
    RunResult,
    check_unused,
    lock_folder,
    summarize,
    write_comparison,
)
from saccade.training import LoggerName, Progress, check_logger, prepare, train

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


class Observer(Protocol):
    """Receives the progress of a comparison."""

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        """Run `number` of `of` starts."""

    def progressed(self, progress: Progress) -> None:
        """The current run has progressed. Only some executors report this."""

    def finished(self, results: list[RunResult]) -> None:
        """A run has finished; it is the last of the results so far."""


def compare(
    comparison: Comparison,
    out: Path,
    observer: Observer | None = None,
    executor: Executor | None = None,
    logger: LoggerName = "auto",
) -> ComparisonResults:
    """Train the missing runs of a comparison, and write its results.

    Comparisons are incremental: after an interruption, or with more seeds or attentions, only the missing
    runs are trained. A folder that contains only runs becomes a comparison.

    Args:
        comparison: The comparison.
        out: Folder of the comparison.
        observer: Receives the progress.
        executor: Where runs are trained, see `Executor`. By default, one after another
            in this process.
        logger: Where the curves of each run go in addition to metrics.csv, see `saccade.training.train`.

    Returns:
        The content of results.json.

    Raises:
        BadRun: The folder belongs to another comparison, is used by another process, or cannot be written.
        BadOption: The logger is not installed or cannot start.
        SaccadeError: A missing run would fail. This is checked before anything is written.
    """
    jobs = _jobs(comparison, out, logger)
    check_logger(logger)
    with lock_folder(out):
        _claim(comparison, out)

        def start(number: int) -> None:
            if observer:
                observer.started(jobs[number].plan.recipe, number + 1, len(jobs))

        results: dict[int, RunResult] = {}
        report = observer.progressed if observer else None
        for number, result in (executor or Local()).run(jobs, start, report):
            results[number] = result
            if observer:
                observer.finished([*results.values()])
        ordered = {f"runs/{jobs[number].folder.name}": results[number] for number in sorted(results)}
        summary = summarize(comparison.to_mapping(), ordered)
        write_comparison(out, summary)
        return summary


def _jobs(comparison: Comparison, out: Path, logger: LoggerName) -> list[Job]:
    """Return the jobs of all runs. Each attention with a missing run is prepared once, for all its seeds."""
    runs = [(recipe, out / "runs" / folder_name(recipe)) for recipe in comparison.runs()]
    incomplete = {recipe.attention for recipe, folder in runs if not (folder / RUN_RESULT).exists()}
    plans = {}
    for attention in comparison.attentions:
        recipe = replace(comparison.training, attention=attention)
        plans[attention] = prepare(recipe) if attention in incomplete else resolve(recipe)
    group = out.resolve().name
    return [
        Job(plans[recipe.attention].with_seed(recipe.seed), folder, logger, group) for recipe, folder in runs
    ]


def _claim(comparison: Comparison, out: Path) -> None:
    """Write the recipe of a new comparison, or check that the folder holds this one or a part of it."""
    path = out / "recipe.yaml"
    if path.exists():
        existing = Comparison.read(path)
        old, new = existing.to_mapping(), comparison.to_mapping()
        if changed := comparison.changes(existing):
            difference = ", ".join(f"{key} {old[key]!r}, not {new[key]!r}" for key in changed)
            problem = f"belongs to another comparison: {difference}; choose another --out"
            raise bad_run(out, problem, changed[0], new[changed[0]])
        if old != new:
            comparison.write(path)
    else:
        has_runs = (out / "runs").exists()  # the live page of a search also has a report by now
        check_unused(out, ("runs", "report.html") if has_runs else ())
        comparison.write(path)
