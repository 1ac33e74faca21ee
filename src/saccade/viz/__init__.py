"""Visualization: attention maps as images and interactive pages, and the report of a comparison."""

from saccade.viz.figure import look
from saccade.viz.live import LivePage
from saccade.viz.look_page import Look
from saccade.viz.overlay import ALPHA, CMAPS, outline_classes
from saccade.viz.report import write_report

__all__ = ["ALPHA", "CMAPS", "LivePage", "Look", "look", "outline_classes", "write_report"]
