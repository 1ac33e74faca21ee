"""The grid: which runs a comparison consists of, and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from saccade.config.recipe import Recipe, check_integer, check_keys, read_yaml, to_yaml
from saccade.errors import BadRecipe
from saccade.files import write_text

_PER_RUN = ("attention", "seed")

#: What is compared unless something else is asked for.
FIRST_EXPERIMENT = (
    "none",
    "se",
    "multi_head:heads=1",
    "multi_head:heads=1,projection=conv1d,kernel_size=3",
    "cbam",
)


@dataclass(frozen=True)
class Comparison:
    """Attentions x seeds over one training recipe.

    attentions      as `Recipe.attention`; "none" among them makes paired differences possible
    seeds           how many; the runs use the seeds 0, 1, ...
    training        the recipe of every run, but for its attention and its seed

    Raises `BadRecipe` if there is no attention, one twice, or no seed.
    """

    attentions: tuple[str, ...]
    seeds: int
    training: Recipe

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds, at_least=1)
        if not self.attentions:
            raise BadRecipe("attentions=[] must name at least one; add -a NAME")
        twice = {name for name in self.attentions if self.attentions.count(name) > 1}
        if twice:
            raise BadRecipe(f"attentions: {', '.join(map(repr, sorted(twice)))} is given twice")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Comparison:
        """Build a comparison from YAML's keys. Raises `UnknownName` for a key that it does not have."""
        shared = [field.name for field in fields(Recipe) if field.name not in _PER_RUN]
        check_keys(values, ["attentions", "seeds", *shared])
        attentions = values.get("attentions", [])
        if not isinstance(attentions, list) or not all(isinstance(name, str) for name in attentions):
            raise BadRecipe(f"attentions={attentions!r} must be a list of texts NAME[:option=value,...]")
        training = {key: value for key, value in values.items() if key in shared}
        return cls(tuple(attentions), values.get("seeds", 3), Recipe.from_mapping(training))

    def to_mapping(self) -> dict[str, Any]:
        """Return YAML's keys."""
        shared = {key: value for key, value in asdict(self.training).items() if key not in _PER_RUN}
        return {
            "task": shared.pop("task"),
            "attentions": list(self.attentions),
            "seeds": self.seeds,
            **shared,
        }

    @classmethod
    def read(cls, path: Path) -> Comparison:
        return cls.from_mapping(read_yaml(path))

    def write(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        return to_yaml(self.to_mapping())

    def runs(self) -> list[Recipe]:
        """Return the recipes of all runs: every attention with the first seed, then with the next."""
        return [
            replace(self.training, attention=attention, seed=seed)
            for seed in range(self.seeds)
            for attention in self.attentions
        ]


def folder_name(recipe: Recipe) -> str:
    """Return the name of a run's folder.

    >>> folder_name(Recipe(attention="multi_head:heads=4,projection=conv1d", seed=1))
    'multi_head-heads=4-projection=conv1d-seed1'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.=]+', '-', recipe.attention).strip('-')}-seed{recipe.seed}"
