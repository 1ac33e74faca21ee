"""Scores: how well a heat map points at the truth, at what the model uses, and at what it has learned."""

from saccade.scoring.faithfulness import RANKINGS, Curves, Faithfulness, faithfulness
from saccade.scoring.localisation import Localisation, Score, localisation
from saccade.scoring.sanity import Sanity, sanity

__all__ = [
    "RANKINGS",
    "Curves",
    "Faithfulness",
    "Localisation",
    "Sanity",
    "Score",
    "faithfulness",
    "localisation",
    "sanity",
]
