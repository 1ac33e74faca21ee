"""Scores: how well an attention map points at the truth."""

from saccade.scoring.localisation import Localisation, Score, localisation

__all__ = ["Localisation", "Score", "localisation"]
