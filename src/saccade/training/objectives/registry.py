"""The registry: objectives by name, built-in and of installed plugins."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from saccade import plugins
from saccade.annotations import check_annotations
from saccade.config import Plan, Recipe
from saccade.data import TaskInfo
from saccade.errors import BadRecipe, bad_recipe
from saccade.grammar import check_options
from saccade.training.module import Classifier
from saccade.training.objectives.contrastive import Contrastive
from saccade.training.objectives.hard import Hard, hard_items
from saccade.training.objectives.recurrent import Recurrent
from saccade.training.objectives.segment import Segment

OBJECTIVES: Mapping[str, type[Classifier]] = {
    "classify": Classifier,
    "recurrent": Recurrent,
    "contrastive": Contrastive,
    "hard": Hard,
    "segment": Segment,
}


def create_objective(plan: Plan, task: TaskInfo) -> Classifier:
    """Create the model of a plan with its objective.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.

    Raises:
        UnknownName: The objective, or an option of it, does not exist.
        BadOption: An option is out of range.
        BadRecipe: The objective ignores a key that the recipe sets, or does not train this attention or on
            this task.
    """
    name, options = plan.objective.name, plan.objective.options
    objective = plugins.find("objective", name, OBJECTIVES, "saccade.objectives", owner="objective")
    check_options(name, options, list(inspect.signature(objective).parameters)[2:])  # after plan and task
    for key in objective.ignored_keys:
        value = getattr(plan.recipe, key)
        if value != getattr(Recipe, key):
            raise bad_recipe(f"has no effect on objective={name!r}", owner=name, **{key: value})
    if task.segmentation and not issubclass(objective, Segment):
        message = (
            f"task={plan.task.text!r} has a class for each pixel; it needs objective='segment', not {name!r}"
        )
        raise BadRecipe(message, owner=name, option="objective", value=plan.objective.text)
    classifier = objective(plan, task, **check_annotations(name, objective, options))
    if hard_items(classifier.model) and not isinstance(classifier, Hard):
        message = f"attention={plan.recipe.attention!r} needs objective='hard', not {plan.objective.text!r}"
        raise BadRecipe(message, owner=name, option="objective", value=plan.objective.text)
    return classifier
