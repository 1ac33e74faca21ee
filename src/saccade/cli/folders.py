"""Default folders below runs/: named for what they hold, and never shared by two recipes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from saccade.config import Comparison, Recipe, folder_name
from saccade.errors import SaccadeError

_RUNS = Path("runs")


def run_folder(recipe: Recipe) -> Path:
    """Return the folder in runs/ that holds the run of a recipe, or a new one.

    Example:
        >>> str(run_folder(Recipe(task="folder:photos", attention="cbam", seed=2)))
        'runs/folder-photos-cbam-seed2'
    """
    return _first(f"{_slug(recipe.task)}-{folder_name(recipe)}", lambda path: Recipe.read(path) == recipe)


def comparison_folder(comparison: Comparison) -> Path:
    """Return the folder in runs/ that holds a comparison, or a part of it, or a new one.

    Example:
        >>> str(comparison_folder(Comparison(("none", "se"), 3, Recipe(task="white-patch"))))
        'runs/white-patch'
    """
    return _first(_slug(comparison.training.task), lambda path: not comparison.changes(Comparison.read(path)))


def search_folder(task: str) -> Path:
    """Return the folder in runs/ of the search on a task.

    Example:
        >>> str(search_folder("folder:photos,size=64"))
        'runs/search-folder-photos'
    """
    return _RUNS / f"search-{_slug(task)}"


def _first(name: str, holds: Callable[[Path], bool]) -> Path:
    """Return the first of NAME, NAME-2, NAME-3 ... that does not exist, or whose recipe fits."""
    folder, number = _RUNS / name, 1
    while folder.exists() and not _fits(folder, holds):
        number += 1
        folder = _RUNS / f"{name}-{number}"
    return folder


def _fits(folder: Path, holds: Callable[[Path], bool]) -> bool:
    try:
        return holds(folder / "recipe.yaml")
    except SaccadeError:  # not a run, or one of another version
        return False


def _slug(task: str) -> str:
    name, _, rest = task.partition(":")
    first = rest.partition(",")[0]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name if "=" in first else f"{name}-{first}").strip("-.")[:60]
