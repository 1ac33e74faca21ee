"""Experiments: comparisons of attentions over seeds, executors for their runs, and scores of their maps."""

from saccade.config import FIRST_EXPERIMENT, Comparison
from saccade.experiments.executors import Executor, Job, Local, Processes, Ray
from saccade.experiments.grid import Observer, compare
from saccade.experiments.scoring import score

__all__ = [
    "FIRST_EXPERIMENT",
    "Comparison",
    "Executor",
    "Job",
    "Local",
    "Observer",
    "Processes",
    "Ray",
    "compare",
    "score",
]
