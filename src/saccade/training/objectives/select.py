"""The methods of training, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from saccade.config.recipe import Recipe
from saccade.data import TaskInfo
from saccade.errors import BadRecipe, UnknownName
from saccade.grammar import check_options, parse
from saccade.training.module import Classifier
from saccade.training.objectives.contrastive import Contrastive
from saccade.training.objectives.hard import Hard, hard_items
from saccade.training.objectives.recurrent import Recurrent

METHODS: Mapping[str, type[Classifier]] = {
    "classify": Classifier,
    "recurrent": Recurrent,
    "contrastive": Contrastive,
    "hard": Hard,
}


def classifier_of(recipe: Recipe, task: TaskInfo) -> Classifier:
    """Return the recipe's network with its method of training.

    Raises `UnknownName` for a method, or an option of it, that does not exist; `BadOption` for an option out
    of range; `BadRecipe` for a key of the recipe that the method cannot heed.
    """
    name, options = parse(recipe.objective)
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    known = list(inspect.signature(METHODS[name]).parameters)[2:]  # after the recipe and the task
    check_options(name, options, known)
    for key in METHODS[name].unheeded:
        if getattr(recipe, key) != getattr(Recipe, key):
            raise BadRecipe(f"{key}={getattr(recipe, key)!r} has no effect on objective={name!r}")
    classifier = METHODS[name](recipe, task, **options)
    if hard_items(classifier.model) and not isinstance(classifier, Hard):
        raise BadRecipe(
            f"attention={recipe.attention!r} is trained by objective='hard', not {recipe.objective!r}"
        )
    return classifier
