"""Training: a recipe becomes a run in a folder of its own. Lightning trains."""

from saccade.train.history import Progress
from saccade.train.recipe import Recipe
from saccade.train.run import check_recipe, load_checkpoint, train

__all__ = ["Progress", "Recipe", "check_recipe", "load_checkpoint", "train"]
