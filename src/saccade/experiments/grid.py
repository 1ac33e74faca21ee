"""The comparison: run after run, each kept when it is done, so that it can be killed and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from saccade.config import Comparison, Plan, Recipe, folder_name
from saccade.errors import BadRun
from saccade.experiments.executors import Executor, Job, Local
from saccade.results import LOCK, ComparisonResults, RunResult, lock_folder, summarize, write_comparison
from saccade.training import Progress, prepare
from saccade.training.loggers import LoggerName, check_logger


class Observer(Protocol):
    """Is told how a comparison goes."""

    def started(self, recipe: Recipe, number: int, of: int) -> None: ...
    def progressed(self, progress: Progress) -> None: ...
    def finished(self, results: list[RunResult]) -> None: ...


def compare(
    comparison: Comparison,
    out: Path,
    observer: Observer | None = None,
    executor: Executor | None = None,
    logger: LoggerName = "auto",
) -> ComparisonResults:
    """Train all runs that `out` does not hold yet, and return what is written to its results.json.

    Killed at any moment and started again, it does only what is missing; so it does in a folder of the same
    comparison with fewer seeds or attentions, which grows, and in one that holds nothing but runs. By default
    they are trained one after another in this process; see `saccade.experiments.executors` for others.
    `logger` gets the curves of each run besides its metrics.csv, see `saccade.training.train`.

    Raises `BadRun` if the folder belongs to another comparison, another process writes there, or it cannot be
    written; `BadOption` for a logger that is not installed or cannot begin.
    """
    plans = prepare_all(comparison)
    check_logger(logger)
    with lock_folder(out):
        _claim(comparison, out)
        group = out.resolve().name
        jobs = [
            Job(
                plans[recipe.attention].with_seed(recipe.seed),
                out / "runs" / folder_name(recipe),
                logger,
                group,
            )
            for recipe in comparison.runs()
        ]

        def begin(number: int) -> None:
            if observer:
                observer.started(jobs[number].plan.recipe, number + 1, len(jobs))

        found: dict[int, RunResult] = {}
        for number, result in (executor or Local()).run(
            jobs, begin, observer.progressed if observer else None
        ):
            found[number] = result
            if observer:
                observer.finished([*found.values()])
        results = {f"runs/{jobs[number].folder.name}": found[number] for number in sorted(found)}
        summary = summarize(comparison.to_mapping(), results)
        write_comparison(out, summary)
        return summary


def prepare_all(comparison: Comparison) -> dict[str, Plan]:
    """Prepare one plan for each attention, before anything is written. Its runs differ in the seed alone."""
    return {
        attention: prepare(replace(comparison.training, attention=attention))
        for attention in comparison.attentions
    }


def _claim(comparison: Comparison, out: Path) -> None:
    """Write the recipe into a new folder, or see that an old one belongs to it or to a part of it."""
    path = out / "recipe.yaml"
    if path.exists():
        old = Comparison.read(path)
        theirs, ours = old.to_mapping(), comparison.to_mapping()
        grown = set()
        if set(old.attentions) <= set(comparison.attentions) and old.seeds <= comparison.seeds:
            grown = {"attentions", "seeds"}
        unlike = ", ".join(
            f"{key} {theirs[key]!r}, not {ours[key]!r}"
            for key in ours
            if key not in grown and theirs[key] != ours[key]
        )
        if unlike:
            raise BadRun(f"{str(out)!r} belongs to another comparison: {unlike}; choose another --out")
        if theirs != ours:
            comparison.write(path)
    elif any(path.name not in (LOCK, "runs") for path in out.iterdir()):
        raise BadRun(f"{str(out)!r} is not empty and holds no comparison; choose another --out")
    else:
        comparison.write(path)
