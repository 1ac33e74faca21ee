"""The plan: a recipe with every text resolved into typed values, once, by `resolve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from saccade.annotations import check_annotations
from saccade.config.recipe import Recipe
from saccade.data import TaskChoice, resolve_task
from saccade.grammar import check_options, parse, parse_placed
from saccade.layers.aliases import resolve_alias
from saccade.layers.registry import spec
from saccade.models import SOURCES, split_source


@dataclass(frozen=True)
class Choice:
    """A component by name, with its options.

    Attributes:
        name: Name of the component.
        options: Its options, parsed.
        text: What the user wrote, for messages and files.
    """

    name: str
    options: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class AttentionChoice(Choice):
    """A mechanism, its options, and where it goes.

    Attributes:
        places: Places after the `@`; empty for the place that `stage` or `where` of the recipe names.
    """

    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A recipe, resolved. Everything below the command line takes a plan and parses no text.

    A plan holds no tensors, so that it can be sent to another process.

    Attributes:
        recipe: What the user wrote.
        task: How the data are loaded.
        attention: The mechanism; None for "none".
        backbone: The model without attention.
        objective: What the run minimizes.
    """

    recipe: Recipe
    task: TaskChoice
    attention: AttentionChoice | None
    backbone: Choice
    objective: Choice

    def with_seed(self, seed: int) -> Plan:
        """Return the plan of the same run with another seed."""
        return replace(self, recipe=replace(self.recipe, seed=seed))


def resolve(recipe: Recipe) -> Plan:
    """Resolve the names and options of a recipe. Loads no data and builds no model.

    Raises:
        UnknownName: A task, a mechanism or one of their options does not exist.
        BadOption: A text does not have the form `NAME[:option=value,...]`.

    Example:
        >>> plan = resolve(Recipe(attention="cbam:reduction=4@1+2"))
        >>> plan.attention.name, plan.attention.options, plan.attention.places
        ('cbam', {'reduction': 4}, ('1', '2'))
    """
    return Plan(
        recipe=recipe,
        task=resolve_task(recipe.task),
        attention=_attention(recipe.attention),
        backbone=_backbone(recipe.backbone),
        objective=Choice(*parse(recipe.objective), recipe.objective),
    )


def _attention(text: str) -> AttentionChoice | None:
    mechanism, places = parse_placed(text)
    name, options = resolve_alias(*parse(mechanism))
    if name == "none":
        check_options(name, options, [])
        return None
    check_options(name, options, [option.name for option in spec(name).options])
    options = check_annotations(name, spec(name).module, options)
    return AttentionChoice(name, options, text, tuple(places))


def _backbone(text: str) -> Choice:
    """The library before the first colon, if there is one, is part of the name: `timm:resnet18`."""
    source, _, rest = text.partition(":")
    if source not in SOURCES:
        return Choice(*parse(text), text) if "=" in rest or not rest else Choice(text, {}, text)
    _, name, options = split_source(text)
    return Choice(f"{source}:{name}", options, text)
