"""Metrics of heat maps: localization of the target, faithfulness to the model, dependence on its weights."""

from saccade.metrics.faithfulness import RANKINGS, Curves, Faithfulness, evaluate_faithfulness
from saccade.metrics.localization import Localization, LocalizationScore, localize
from saccade.metrics.sanity import Sanity, sanity_check

__all__ = [
    "RANKINGS",
    "Curves",
    "Faithfulness",
    "Localization",
    "LocalizationScore",
    "Sanity",
    "evaluate_faithfulness",
    "localize",
    "sanity_check",
]
