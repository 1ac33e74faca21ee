"""The report of a comparison: one self-contained page with leaderboard, charts and attention maps."""

from saccade.viz.report.page import write_report

__all__ = ["write_report"]
