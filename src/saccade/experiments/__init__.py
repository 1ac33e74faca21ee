"""Experiments: comparisons of attentions over seeds, executors for their runs, and scores of their maps."""

from saccade.config import FIRST_EXPERIMENT, Comparison
from saccade.experiments.executors.processes import Processes
from saccade.experiments.executors.ray import Ray
from saccade.experiments.grid import Executor, Job, Local, Observer, compare
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
