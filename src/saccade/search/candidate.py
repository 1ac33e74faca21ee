"""Train one candidate: until a pruner stops it, or from one rung to the next. It is never tested."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from saccade.config import Plan
from saccade.training import Progress, train


class _StoppedError(Exception):
    """Raised from the report of an epoch, to leave the training loop before the test images are used."""


def train_candidate(
    plan: Plan,
    folder: Path,
    finished: Callable[[int, float, float], bool],
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Train a candidate, or resume it, until all epochs are completed or a pruner stops it.

    Checkpoints are removed at the end, because a candidate is never continued and a finalist is trained anew.

    Args:
        plan: The plan.
        folder: Folder of the run.
        finished: Called after each epoch with its number, the validation error and the seconds of training
            in this process. Returns whether to stop.
        report: Called with the progress.

    Raises:
        BadRun: The loss is not finite (`option="loss"`), or the folder cannot be written.
    """
    seen, start = 0, time.monotonic()

    def observe(progress: Progress) -> None:
        nonlocal seen
        if report is not None:
            report(progress)
        for error in validation_errors(folder)[seen:]:
            seen += 1
            if finished(seen, error, time.monotonic() - start) or seen == plan.recipe.epochs:
                raise _StoppedError

    with suppress(_StoppedError):
        train(plan, folder, resume=True, report=observe, logger="none")
    remove_checkpoints(folder)


def train_to_rung(folder: Path, plan: Plan, rung: int) -> tuple[list[float], float]:
    """Train a candidate from its checkpoint until it has completed a number of epochs.

    The next call continues from the checkpoint of this epoch, with the same errors as one longer call.

    Args:
        folder: Folder of the run.
        plan: The plan.
        rung: Number of epochs.

    Returns:
        The validation errors of these epochs, and the seconds of training in this call.

    Raises:
        BadRun: The loss is not finite (`option="loss"`), or the folder cannot be written.
    """
    start = time.monotonic()

    def observe(progress: Progress) -> None:
        # The first report of the next epoch follows the checkpoint of the last one.
        if progress.epoch > rung or len(validation_errors(folder)) == plan.recipe.epochs:
            raise _StoppedError

    with suppress(_StoppedError):
        train(plan, folder, resume=True, report=observe, logger="none")
    return validation_errors(folder)[:rung], time.monotonic() - start


def validation_errors(folder: Path) -> list[float]:
    """Return the validation error of each completed epoch of a run."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [float(row["val_error"]) for row in csv.DictReader(file)]


def remove_checkpoints(folder: Path) -> None:
    """Remove the weights of a candidate that has ended."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
