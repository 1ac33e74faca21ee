"""One self-contained HTML page about a comparison: which attention helps, what it costs, where it looks."""

from saccade.viz.report.page import write

__all__ = ["write"]
