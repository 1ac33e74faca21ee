"""Executors: where the runs of a comparison are trained."""

from saccade.experiments.executors.base import RETRIES, Begin, Executor, Job, Local, Processes, Report

__all__ = ["RETRIES", "Begin", "Executor", "Job", "Local", "Processes", "Report"]
