"""The finalists: trained anew with fresh seeds, and tested once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from saccade.config import Comparison, Plan, Recipe, folder_name
from saccade.errors import BadRun
from saccade.experiments import Executor, Observer, compare
from saccade.results import (
    BASELINE,
    RUN_RESULT,
    ComparisonResults,
    SearchRun,
    SpaceCandidate,
    lock_folder,
    read_run_result,
)
from saccade.training import LoggerName, prepare, train

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
    executor: Executor | None = None,
) -> ComparisonResults:
    """Train and test the finalists and the model without attention, as a comparison.

    Several processes share the runs: each trains one that no other process trains. With an executor, one
    process trains all of them.

    Args:
        recipe: Recipe of all runs.
        finalists: The finalists.
        seeds: Seeds of each.
        folder: Folder of the comparison.
        observer: Receives the progress.
        logger: Where the curves go, see `saccade.training.train`.
        executor: Where the runs are trained; by default, in this process.

    Returns:
        The content of the results.json of the comparison.
    """
    comparison = Comparison((BASELINE, *finalists), seeds, recipe)
    if executor is None:
        _share_runs(comparison, folder, observer, logger)
    with waiting_lock(folder.with_name(f".{folder.name}")):
        return compare(comparison, folder, observer if executor else None, executor, logger)


def _share_runs(comparison: Comparison, folder: Path, observer: Observer | None, logger: LoggerName) -> None:
    """Train the runs of a comparison that other processes do not train, and wait for those that they do."""
    recipe = comparison.training
    plans = {name: prepare(replace(recipe, attention=name)) for name in comparison.attentions}
    runs = [
        (plans[run.attention].with_seed(run.seed), folder / "runs" / folder_name(run))
        for run in comparison.runs()
    ]
    while not _complete(runs):
        trained = [_train(number, runs, observer, logger) for number in range(len(runs))]
        if not any(trained):
            time.sleep(PAUSE)  # other processes train what is missing


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


_Runs = Sequence[tuple[Plan, Path]]


def _complete(runs: _Runs) -> bool:
    return all((path / RUN_RESULT).exists() for _, path in runs)


def _train(number: int, runs: _Runs, observer: Observer | None, logger: LoggerName) -> bool:
    """Train a run unless it is complete, or another process trains it; return whether it was trained."""
    plan, path = runs[number]
    if (path / RUN_RESULT).exists():
        return False
    if observer:
        observer.started(plan.recipe, number + 1, len(runs))
    try:
        report = observer.progressed if observer else None
        train(plan, path, resume=True, report=report, logger=logger, group=path.parents[1].resolve().name)
    except BadRun as error:
        if error.option != "lock":
            raise
        return False
    if observer:
        done = [other for _, other in runs if (other / RUN_RESULT).exists() and other != path]
        observer.finished([read_run_result(other) for other in (*done, path)])
    return True
