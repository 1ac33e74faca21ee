"""The recipes that are part of the package, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config.recipe import read_yaml
from saccade.errors import UnknownName

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class BuiltinRecipe:
    """A recipe of the package.

    Attributes:
        name: Its name.
        path: Its file, NAME.yaml, whose first line is a comment that summarizes it.
    """

    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first line of the file."""
        return self.path.read_text().partition("\n")[0].removeprefix("#").strip()

    @property
    def command(self) -> str:
        """The command that runs the recipe: "train", or "compare" for a comparison."""
        return "compare" if "attentions" in read_yaml(self.path) else "train"


def builtin_recipes() -> dict[str, BuiltinRecipe]:
    """Return the recipes of the package by name.

    Example:
        >>> builtin_recipes()["ram-mnist"].command
        'train'
    """
    return {path.stem: BuiltinRecipe(path.stem, path) for path in sorted(_FOLDER.glob("*.yaml"))}


def read_recipe(text: str) -> dict[str, Any]:
    """Read the keys of a recipe from a YAML file or, by its name, from the package.

    Raises:
        UnknownName: The text is neither a file nor the name of a recipe.
        BadRecipe: The file cannot be read, or is not a YAML mapping.
    """
    known = builtin_recipes()
    if text in known:
        return read_yaml(known[text].path)
    if Path(text).exists() or Path(text).suffix or len(Path(text).parts) > 1:
        return read_yaml(Path(text))
    raise UnknownName("recipe", text, known, owner="recipe")
