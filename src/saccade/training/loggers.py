"""Loggers: where the learning curves of a run go in addition to metrics.csv."""

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

#: Packages of which each logger needs one.
_NEEDED = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
#: What loggers write into the folder of a run.
TRACES = ("tensorboard", "wandb", "mlflow.db", "mlflow-artifacts")


def check_logger(name: LoggerName) -> None:
    """Raise `BadOption` unless the logger exists and its package is installed.

    Example:
        >>> check_logger("auto")
    """
    check_choice("train", "logger", name, get_args(LoggerName))
    if not _is_installed(name):
        package = _NEEDED[name][-1]
        message = f"logger={name!r} needs the package {package!r}; pip install 'saccade[all]'"
        raise BadOption(message, owner="train", option="logger", value=name)


@contextmanager
def logging_to(name: LoggerName, folder: Path, group: str | None = None) -> Iterator[loggers.Logger | None]:
    """Create a Lightning logger for a run, and close it when the block ends.

    Args:
        name: Name of the logger. "auto" means "tensorboard" if it is installed; "none" and "csv" mean none.
        folder: Folder of the run.
        group: Common name of the runs of a comparison: the group in W&B, the experiment in MLflow.

    Raises:
        BadOption: The logger cannot start, for example W&B without a login. Nothing has been trained yet.
    """
    if name == "auto" and _is_installed("tensorboard"):
        name = "tensorboard"
    if name not in _NEEDED:
        yield None
        return
    server = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        logger = _create(name, folder, group, server)
    except Exception as error:  # each library has its own
        reason = str(error).strip().partition("\n")[0]
        message = f"logger={name!r} cannot start: {reason}"
        raise BadOption(message, owner="train", option="logger", value=name) from error
    try:
        yield logger
    finally:
        _close(logger, server)


def _create(name: str, folder: Path, group: str | None, server: str | None) -> loggers.Logger:
    logger: loggers.TensorBoardLogger | loggers.WandbLogger | loggers.MLFlowLogger
    if name == "tensorboard":
        earlier = [*(folder / "tensorboard").glob("events.*")]  # of the same run, before it was resumed
        logger = loggers.TensorBoardLogger(
            folder, "", "tensorboard", default_hp_metric=False, filename_suffix=f".{len(earlier)}"
        )
    elif name == "wandb":
        names = sorted(path.name for path in (folder / "wandb").glob("*run-*-*"))
        run_id = names[-1].rpartition("-")[2] if names else None  # a resumed run continues under its id
        logger = loggers.WandbLogger(folder.name, folder, run_id, project="saccade", group=group)
    else:
        place = server or f"sqlite:///{folder / 'mlflow.db'}"  # MLflow does not accept plain files
        artifacts = None if server else str(folder / "mlflow-artifacts")  # not the working directory
        logger = loggers.MLFlowLogger(
            group or "saccade", folder.name, tracking_uri=place, artifact_location=artifacts
        )
    _ = logger.experiment
    return logger


def _close(logger: loggers.Logger, server: str | None) -> None:
    """Reset what a library keeps per process, so that the next run does not continue this one."""
    if isinstance(logger, loggers.WandbLogger):
        logger.experiment.finish()
    if isinstance(logger, loggers.MLFlowLogger):
        import mlflow

        mlflow.set_tracking_uri(server)


def _is_installed(name: str) -> bool:
    """Return whether a logger needs no package, or one of its packages is installed."""
    packages = _NEEDED.get(name, ())
    return not packages or any(importlib.util.find_spec(package) for package in packages)
