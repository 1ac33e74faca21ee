"""Checkpoints: where a run keeps them, and how they are read without trusting them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from saccade.config.recipe import Recipe, read_yaml
from saccade.errors import BadRun

CHECKPOINT = Path("checkpoints") / "last.ckpt"


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a run tested: the best one of a run with patience, else the last.

    `path` is the folder of the run, or of a checkpoint, which is returned as it is.

    Raises `BadRun` if the folder is not that of a run.
    """
    if not path.is_dir():
        return path
    if not (path / "recipe.yaml").is_file():
        raise BadRun(f"{str(path)!r} is not the folder of a run: it holds no recipe.yaml")
    recipe = Recipe.from_mapping(read_yaml(path / "recipe.yaml"))
    return path / (
        CHECKPOINT if recipe.early_stopping_patience is None else CHECKPOINT.with_name("best.ckpt")
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it. Raises `BadRun` if it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadRun(f"{str(path)!r} does not exist") from error
    except Exception as error:  # torch.load raises almost anything on bytes that it did not write
        raise BadRun(f"{str(path)!r} is not a checkpoint of a run") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "loops"} <= checkpoint.keys():
        raise BadRun(f"{str(path)!r} is not a checkpoint of a run")
    return checkpoint
