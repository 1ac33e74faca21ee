"""The recipe: everything that determines a run, as one readable YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from saccade.errors import BadRecipe, UnknownName
from saccade.files import write_text


@dataclass(frozen=True)
class Recipe:
    """One training run.

    task            NAME[:option=value,...], see `saccade.data`
    attention       NAME[:option=value,...] of a mechanism, or "none"
    stage           the stage of `SmallCNN` after which the attention stands, 1 to 3
    seed            of the initial weights and of the order of the images
    epochs, batch_size, learning_rate, weight_decay     AdamW under a one-cycle schedule
    patience        stop after this many epochs without a better validation error; null: never

    Raises `BadRecipe` for a value that is out of range.
    """

    task: str = "white-patch"
    attention: str = "none"
    stage: int = 2
    seed: int = 0
    epochs: int = 6
    batch_size: int = 50
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("stage", "epochs", "batch_size"):
            check_integer(name, getattr(self, name), at_least=1)
        check_integer("seed", self.seed, at_least=0)
        if self.patience is not None:
            check_integer("patience", self.patience, at_least=1)
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise BadRecipe(f"{name}={value!r} must be a number of at least 0")
        for name in ("task", "attention"):
            if not isinstance(getattr(self, name), str):
                raise BadRecipe(
                    f"{name}={getattr(self, name)!r} must be text of the form NAME[:option=value,...]"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from YAML's keys. Raises `UnknownName` for a key that it does not have."""
        check_keys(values, [field.name for field in fields(cls)])
        return cls(**values)

    def write(self, path: Path) -> None:
        write_text(path, yaml.safe_dump(asdict(self), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values. Raises `BadRecipe` if it is none."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadRecipe(f"recipe {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"recipe {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadRecipe(f"recipe {str(path)!r} holds no keys, but {values!r}")
    return values


def check_keys(values: Mapping[str, Any], known: list[str]) -> None:
    """Raise `UnknownName` for a key that is not known."""
    for key in values:
        if key not in known:
            raise UnknownName("recipe key", str(key), known)


def check_integer(name: str, value: object, *, at_least: int) -> None:
    """Raise `BadRecipe` unless the value is an integer of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise BadRecipe(f"{name}={value!r} must be an integer of at least {at_least}")
