"""Scores: how well a heat map points at the truth, at what the model uses, and at what it has learned."""

from saccade.metrics.faithfulness import RANKINGS, Curves, Faithfulness, faithfulness
from saccade.metrics.localization import Localization, Score, localization
from saccade.metrics.sanity import Sanity, sanity

__all__ = [
    "RANKINGS",
    "Curves",
    "Faithfulness",
    "Localization",
    "Sanity",
    "Score",
    "faithfulness",
    "localization",
    "sanity",
]
