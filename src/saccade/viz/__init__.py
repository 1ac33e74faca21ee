"""Visualization: attention maps over images, as a page, as pictures and as a report."""

from saccade.viz.figure import Look, look

__all__ = ["Look", "look"]
