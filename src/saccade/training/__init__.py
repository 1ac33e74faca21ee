"""Training: a recipe becomes a run in a folder of its own. Lightning trains."""

from saccade.training.callbacks.history import Progress
from saccade.training.checkpoint import load_checkpoint
from saccade.training.hardware import Hardware
from saccade.training.module import Classifier
from saccade.training.run import prepare, train
from saccade.training.trained_model import examples, restore

__all__ = ["Classifier", "Hardware", "Progress", "examples", "load_checkpoint", "prepare", "restore", "train"]
