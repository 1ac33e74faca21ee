"""Executors: where the runs of a comparison are trained."""

from saccade.experiments.executors.job import Executor, Job, Local, Report, Start
from saccade.experiments.executors.processes import Processes
from saccade.experiments.executors.ray import Ray

__all__ = ["Executor", "Job", "Local", "Processes", "Ray", "Report", "Start"]
