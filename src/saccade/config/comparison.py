"""Comparisons: which runs they consist of, and in which order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from saccade.config.recipe import Recipe, check_integer, check_keys, named_file, read_yaml, to_yaml
from saccade.errors import BadRecipe, bad_recipe
from saccade.files import write_text

_MOST_SEEDS = 1000
_LONGEST_NAME = 150  # characters of a folder name; file systems allow 255 bytes
_PER_RUN = ("attention", "seed")

#: The attentions that are compared by default.
FIRST_EXPERIMENT = (
    "none",
    "se",
    "multi_head:heads=1",
    "multi_head:heads=1,projection=conv1d,kernel_size=3",
    "cbam",
)


@dataclass(frozen=True)
class Comparison:
    """Several attentions, each with several seeds, trained with one recipe.

    Attributes:
        attentions: The attentions, as in `Recipe.attention`. With "none", differences to it are computed.
        seeds: Number of seeds. The runs of each attention have the seeds 0, 1, ...
        training: Recipe of all runs. Its attention and seed are ignored.

    Raises:
        BadRecipe: There is no attention, one occurs twice, or there is no seed.
    """

    attentions: tuple[str, ...]
    seeds: int
    training: Recipe

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds)
        if self.seeds > _MOST_SEEDS:
            raise bad_recipe(f"must be at most {_MOST_SEEDS}", seeds=self.seeds)
        if not self.attentions:
            message = "attentions=[] must contain at least one attention; add -a NAME"
            raise BadRecipe(message, option="attentions", value=())
        for name in self.attentions:
            if self.attentions.count(name) > 1:
                raise BadRecipe(f"attentions: {name!r} occurs twice", option="attentions", value=name)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Comparison:
        """Create a comparison from the keys of a YAML file.

        Raises:
            UnknownName: A key does not exist.
            BadRecipe: A value is invalid.
        """
        shared = [field.name for field in fields(Recipe) if field.name not in _PER_RUN]
        check_keys(values, ["attentions", "seeds", *shared])
        attentions = values.get("attentions", [])
        if not isinstance(attentions, list) or not all(isinstance(name, str) for name in attentions):
            expected = "must be a list of texts NAME[:option=value,...][@PLACE]"
            raise bad_recipe(expected, attentions=attentions)
        training = {key: value for key, value in values.items() if key in shared}
        return cls(tuple(attentions), values.get("seeds", 3), Recipe.from_mapping(training))

    def to_mapping(self) -> dict[str, Any]:
        """Return the keys of a YAML file."""
        shared = {key: value for key, value in asdict(self.training).items() if key not in _PER_RUN}
        return {
            "task": shared.pop("task"),
            "attentions": list(self.attentions),
            "seeds": self.seeds,
            **shared,
        }

    def changes(self, existing: Comparison) -> list[str]:
        """Return the keys in which an existing comparison differs, so that this one cannot extend it."""
        old, new = existing.to_mapping(), self.to_mapping()
        extends = set(existing.attentions) <= set(self.attentions) and existing.seeds <= self.seeds
        extensible = {"attentions", "seeds"} if extends else set()
        return [key for key in new if key not in extensible and old[key] != new[key]]

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Read a comparison from a YAML file."""
        values = read_yaml(path)
        with named_file(path):
            return cls.from_mapping(values)

    def write(self, path: Path) -> None:
        """Write the comparison to a YAML file."""
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        """Return the comparison as YAML."""
        return to_yaml(self.to_mapping())

    def runs(self) -> list[Recipe]:
        """Return the recipes of all runs: every attention with the first seed, then with the next."""
        return [
            replace(self.training, attention=attention, seed=seed)
            for seed in range(self.seeds)
            for attention in self.attentions
        ]


def folder_name(recipe: Recipe) -> str:
    """Return the folder name of a run in a comparison.

    Example:
        >>> folder_name(Recipe(attention="multi_head:heads=4,projection=conv1d", seed=1))
        'multi_head-heads=4-projection=conv1d-seed1'
    """
    name = re.sub(r"[^A-Za-z0-9_.=]+", "-", recipe.attention).strip("-")
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(recipe.attention.encode(errors="surrogatepass")).hexdigest()
        name = f"{name[:_LONGEST_NAME]}-{digest[:8]}"
    return f"{name}-seed{recipe.seed}"
