"""Where the curves of a run go besides its metrics.csv: loggers of Lightning's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from lightning.pytorch import loggers

from saccade.errors import BadOption, check_choice

LoggerName = Literal["auto", "none", "csv", "tensorboard", "wandb", "mlflow"]

#: The packages that each logger needs, any one of them.
_NEEDED = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}


def check_logger(name: LoggerName) -> None:
    """Raise `BadOption` unless there is such a logger, and its package is installed.

    >>> check_logger("auto")
    """
    check_choice("train", "logger", name, get_args(LoggerName))
    if not _is_installed(name):
        package = _NEEDED[name][-1]
        raise BadOption(f"logger={name!r} needs the package {package!r}; pip install {package}")


@contextmanager
def logging_to(name: LoggerName, folder: Path, group: str | None = None) -> Iterator[loggers.Logger | None]:
    """Give a logger of Lightning's to a run in `folder`, and let go of it at the end.

    name        "auto" is "tensorboard" where that is installed; for "none" and "csv" there is no logger
    group       what the runs of one comparison have in common: W&B's group, MLflow's experiment

    Raises `BadOption`, before anything is trained, if the logger cannot begin, as W&B cannot without a login.
    """
    if name == "auto" and _is_installed("tensorboard"):
        name = "tensorboard"
    if name not in _NEEDED:
        yield None
        return
    server = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        logger = _begin(name, folder, group, server)
    except Exception as error:  # of whichever library it is
        reason = str(error).strip().partition("\n")[0]
        raise BadOption(f"logger={name!r} cannot begin: {reason}") from error
    try:
        yield logger
    finally:
        _end(logger, server)


def _begin(name: str, folder: Path, group: str | None, server: str | None) -> loggers.Logger:
    logger: loggers.TensorBoardLogger | loggers.WandbLogger | loggers.MLFlowLogger
    if name == "tensorboard":
        earlier = [*(folder / "tensorboard").glob("events.*")]  # of this run, when it is resumed
        logger = loggers.TensorBoardLogger(
            folder, "", "tensorboard", default_hp_metric=False, filename_suffix=f".{len(earlier)}"
        )
    elif name == "wandb":
        names = sorted(path.name for path in (folder / "wandb").glob("*run-*-*"))
        its = names[-1].rpartition("-")[2] if names else None  # under which a resumed run goes on
        logger = loggers.WandbLogger(folder.name, folder, its, project="saccade", group=group)
    else:
        place = server or f"sqlite:///{folder / 'mlflow.db'}"  # MLflow refuses a store of plain files
        artifacts = None if server else str(folder / "mlflow-artifacts")  # by default in the working folder
        logger = loggers.MLFlowLogger(
            group or "saccade", folder.name, tracking_uri=place, artifact_location=artifacts
        )
    _ = logger.experiment
    return logger


def _end(logger: loggers.Logger, server: str | None) -> None:
    """Undo what a library keeps for the process: the next run would go on in this one's."""
    if isinstance(logger, loggers.WandbLogger):
        logger.experiment.finish()
    if isinstance(logger, loggers.MLFlowLogger):
        import mlflow

        mlflow.set_tracking_uri(server)


def _is_installed(name: str) -> bool:
    """Whether any package is installed that a logger needs; one that needs none is always there."""
    needed = _NEEDED.get(name, ())
    return not needed or any(importlib.util.find_spec(package) for package in needed)
