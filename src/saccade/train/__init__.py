"""Training: a recipe becomes a run in a folder of its own. Lightning trains."""

from saccade.train.checkpoint import load_checkpoint
from saccade.train.hardware import Hardware
from saccade.train.history import Progress
from saccade.train.recipe import Recipe
from saccade.train.restore import examples, restore
from saccade.train.run import prepare, train

__all__ = ["Hardware", "Progress", "Recipe", "examples", "load_checkpoint", "prepare", "restore", "train"]
