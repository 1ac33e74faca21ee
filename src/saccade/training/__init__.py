"""Training: a recipe becomes a plan, and a plan becomes a run in its own folder. Based on Lightning."""

from saccade.training.augment.basic import augmentation
from saccade.training.augment.simclr import Views
from saccade.training.callbacks.history import Progress
from saccade.training.checkpoint import examples, load_checkpoint, restore, stored_task
from saccade.training.evaluate import evaluate_run, record_attention
from saccade.training.hardware import Hardware
from saccade.training.loader import Batches, make_loader
from saccade.training.loggers import LoggerName, check_logger
from saccade.training.measurement import Measurement, measure
from saccade.training.module import Classifier
from saccade.training.network import attention_path, attention_paths, build
from saccade.training.objectives.recurrent import Recurrent
from saccade.training.objectives.registry import OBJECTIVES
from saccade.training.run import prepare, train

__all__ = [
    "OBJECTIVES",
    "Batches",
    "Classifier",
    "Hardware",
    "LoggerName",
    "Measurement",
    "Progress",
    "Recurrent",
    "Views",
    "attention_path",
    "attention_paths",
    "augmentation",
    "build",
    "check_logger",
    "evaluate_run",
    "examples",
    "load_checkpoint",
    "make_loader",
    "measure",
    "prepare",
    "record_attention",
    "restore",
    "stored_task",
    "train",
]
