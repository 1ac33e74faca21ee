"""The finalists: trained anew with fresh seeds, and tested once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from saccade.config import Comparison, Recipe, folder_name
from saccade.errors import BadRun
from saccade.experiments import Job, Observer, Ray, compare
from saccade.results import (
    BASELINE,
    RUN_RESULT,
    ComparisonResults,
    SearchRun,
    SpaceCandidate,
    lock_folder,
    read_run_result,
)
from saccade.training import LoggerName, prepare

#: Seed of all candidates. The seeds of a comparison are smaller, so that those of the finalists are fresh.
CANDIDATE_SEED = 1000
FINALISTS = "finalists"
#: Seconds before what another process trains is looked at again.
PAUSE = 1.0


def best_candidates(runs: Sequence[SearchRun], candidates: Mapping[str, SpaceCandidate]) -> list[str]:
    """Sort candidates by their validation error after the most epochs, then by their FLOPs."""
    trained = [run for run in runs if run["attention"] in candidates and run["error"] is not None]

    def order(run: SearchRun) -> tuple[float, ...]:
        costs = candidates[run["attention"]]["costs"]
        return -run["epochs"], run["error"] or 0.0, costs["flops"] if costs else 0

    finished = [run for run in trained if run["state"] in ("complete", "stopped")]
    return [run["attention"] for run in sorted(finished, key=order)]


def train_finalists(
    recipe: Recipe,
    finalists: Sequence[str],
    seeds: int,
    folder: Path,
    observer: Observer | None = None,
    logger: LoggerName = "auto",
    executor: Ray | None = None,
) -> tuple[ComparisonResults, list[str]]:
    """Train and test the finalists and the model without attention, as a comparison.

    Several processes share the runs: each trains one that no other process trains. A finalist that diverges
    with one of the seeds is left out.

    Args:
        recipe: Recipe of all runs.
        finalists: The finalists.
        seeds: Seeds of each.
        folder: Folder of the comparison.
        observer: Receives the progress.
        logger: Where the curves go, see `saccade.training.train`.
        executor: The cluster on which runs are trained; by default, this process.

    Returns:
        The content of the results.json of the comparison, and the finalists that diverged.
    """
    comparison = Comparison((BASELINE, *finalists), seeds, recipe)
    plans = {name: prepare(replace(recipe, attention=name)) for name in comparison.attentions}
    jobs = [
        Job(
            plans[run.attention].with_seed(run.seed),
            folder / "runs" / folder_name(run),
            logger,
            folder.resolve().name,
        )
        for run in comparison.runs()
    ]
    diverged = _train_on(executor, jobs, observer) if executor else _share(jobs, observer)
    kept = (name for name in comparison.attentions if name not in diverged)
    with waiting_lock(folder.with_name(f".{folder.name}")):
        return compare(replace(comparison, attentions=(*kept,)), folder, logger=logger), diverged


@contextmanager
def waiting_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; wait while another process holds the lock."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_folder(folder))
                break
            except BadRun as error:
                if error.option != "lock":
                    raise
                time.sleep(PAUSE)
        yield


def _share(jobs: Sequence[Job], observer: Observer | None) -> list[str]:
    """Train the jobs that other processes do not train, and wait for those that they do.

    Returns:
        The attentions that diverged. Their other jobs are not trained.
    """
    diverged: list[str] = []
    while missing := [number for number, job in enumerate(jobs) if _is_missing(job, diverged)]:
        trained = [_train(number, jobs, diverged, observer) for number in missing]
        if not any(trained):
            time.sleep(PAUSE)  # other processes train what is missing
    return diverged


def _train_on(ray: Ray, jobs: Sequence[Job], observer: Observer | None) -> list[str]:
    """Train jobs on a cluster; return the attentions that diverged."""
    diverged: list[str] = []
    while missing := [job for job in jobs if _is_missing(job, diverged)]:
        is_locked = False

        def start(number: int, missing: Sequence[Job] = missing) -> None:
            if observer:
                observer.started(missing[number].plan.recipe, jobs.index(missing[number]) + 1, len(jobs))

        with closing(ray.outcomes(missing, start)) as outcomes:
            for number, outcome in outcomes:
                if isinstance(outcome, BadRun) and outcome.option == "lock":
                    is_locked = True
                elif isinstance(outcome, Exception):
                    _diverge(missing[number], outcome, diverged)
                elif observer:
                    _report(jobs, missing[number], observer)
        if is_locked:
            time.sleep(PAUSE)  # another command trains it in the shared folder
    return diverged


def _train(number: int, jobs: Sequence[Job], diverged: list[str], observer: Observer | None) -> bool:
    """Train a job unless another process trains it; return whether it was trained."""
    job = jobs[number]
    if not _is_missing(job, diverged):
        return False
    if observer:
        observer.started(job.plan.recipe, number + 1, len(jobs))
    try:
        job.train(observer.progressed if observer else None)
    except BadRun as error:
        if error.option == "lock":
            return False
        _diverge(job, error, diverged)
        return True
    if observer:
        _report(jobs, job, observer)
    return True


def _is_missing(job: Job, diverged: Sequence[str]) -> bool:
    return job.plan.recipe.attention not in diverged and not (job.folder / RUN_RESULT).exists()


def _diverge(job: Job, error: Exception, diverged: list[str]) -> None:
    """Note a finalist whose loss is not finite; raise any other error."""
    attention = job.plan.recipe.attention
    if attention == BASELINE or not (isinstance(error, BadRun) and error.option == "loss"):
        raise error
    diverged.append(attention)


def _report(jobs: Sequence[Job], job: Job, observer: Observer) -> None:
    """Report all results so far, that of a job last."""
    done = [other.folder for other in jobs if (other.folder / RUN_RESULT).exists() and other is not job]
    observer.finished([read_run_result(folder) for folder in (*done, job.folder)])
