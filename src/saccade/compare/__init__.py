"""Comparisons: a grid of runs, and the leaderboard over it."""

from saccade.compare.compare import Watcher, compare
from saccade.compare.grid import FIRST_EXPERIMENT, Comparison
from saccade.compare.leaderboard import interval, leaderboard
from saccade.compare.score import score

__all__ = ["FIRST_EXPERIMENT", "Comparison", "Watcher", "compare", "interval", "leaderboard", "score"]
