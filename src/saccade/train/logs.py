"""Where the curves of a run go besides its metrics.csv: loggers of Lightning's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from lightning.pytorch import loggers

from saccade.errors import BadOption, check_choice

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]

#: The packages that each logger needs, any one of them.
_NEEDED: dict[LoggerName, tuple[str, ...]] = {
    "csv": (),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}


def check_logger(name: LoggerName) -> None:
    """Raise `BadOption` unless there is such a logger, and its package is installed.

    >>> check_logger("csv")
    """
    check_choice("train", "logger", name, list(_NEEDED))
    needed = _NEEDED[name]
    if needed and not any(importlib.util.find_spec(package) for package in needed):
        raise BadOption(f"logger={name!r} needs the package {needed[0]!r}; pip install {needed[0]}")


def logger_of(name: LoggerName, folder: Path) -> loggers.Logger | None:
    """Return a logger of Lightning's for a run's folder; None for "csv", which is always written."""
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
    if name == "wandb":
        return loggers.WandbLogger(name=folder.name, save_dir=folder, project="saccade")
    if name == "mlflow":
        return loggers.MLFlowLogger("saccade", run_name=folder.name, save_dir=str(folder / "mlflow"))
    return None
