"""Comparisons: a grid of runs, and the leaderboard over it."""

from saccade.config.comparison import FIRST_EXPERIMENT, Comparison
from saccade.experiments.grid import Observer, compare
from saccade.experiments.scoring import score

__all__ = ["FIRST_EXPERIMENT", "Comparison", "Observer", "compare", "score"]
