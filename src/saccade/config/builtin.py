"""The recipes that come with the package, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config.recipe import read_yaml
from saccade.errors import UnknownName

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class BuiltinRecipe:
    """A recipe of the package: the file NAME.yaml, which begins with a line of comment that sums it up."""

    name: str
    path: Path

    @property
    def summary(self) -> str:
        return self.path.read_text().partition("\n")[0].removeprefix("#").strip()

    @property
    def command(self) -> str:
        """The command that takes it: one run, or a comparison."""
        return "compare" if "attentions" in read_yaml(self.path) else "train"


def builtin_recipes() -> dict[str, BuiltinRecipe]:
    """Return the recipes of the package by name.

    >>> builtin_recipes()["ram-mnist"].command
    'train'
    """
    return {path.stem: BuiltinRecipe(path.stem, path) for path in sorted(_FOLDER.glob("*.yaml"))}


def read_recipe(text: str) -> dict[str, Any]:
    """Read a recipe's keys and values from a file or, by its name, from the package.

    Raises `UnknownName` for what is neither a file nor such a name; `BadRecipe` for a file without keys.
    """
    known = builtin_recipes()
    if text in known:
        return read_yaml(known[text].path)
    if Path(text).exists() or Path(text).suffix or len(Path(text).parts) > 1:
        return read_yaml(Path(text))
    raise UnknownName("recipe", text, known)
