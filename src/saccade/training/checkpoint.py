"""Checkpoints: where a run saves them, and how to read them without executing their code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from saccade.config import Recipe
from saccade.errors import BadRun
from saccade.files import check_regular

CHECKPOINT = Path("checkpoints") / "last.ckpt"
BEST = Path("checkpoints") / "best.ckpt"
RECIPE = "recipe.yaml"


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a run was tested with: the best one with early stopping, else the last.

    Args:
        path: Folder of a run, or a checkpoint, which is returned unchanged.

    Raises:
        BadRun: The folder is not a run.
    """
    if not path.is_dir():
        return path
    if not (path / RECIPE).is_file():
        message = f"{str(path)!r} is not the folder of a run: it holds no {RECIPE}"
        raise BadRun(message, owner=str(path), option=RECIPE)
    recipe = Recipe.read(path / RECIPE)
    return path / (CHECKPOINT if recipe.early_stopping_patience is None else BEST)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing any code in it.

    Raises:
        BadRun: The file is missing, or is not a checkpoint of a run.
    """
    try:
        check_regular(path)
        with warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadRun(f"{str(path)!r} does not exist", owner=str(path)) from error
    except Exception as error:  # torch.load raises almost any error for foreign files
        raise _not_a_checkpoint(path) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "loops"} <= checkpoint.keys():
        raise _not_a_checkpoint(path)
    return checkpoint


def _not_a_checkpoint(path: Path) -> BadRun:
    return BadRun(f"{str(path)!r} is not a checkpoint of a run", owner=str(path))
