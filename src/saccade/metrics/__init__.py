"""Metrics of heat maps: localization of the target, faithfulness to the model, dependence on its weights."""

from saccade.metrics.faithfulness import RANKINGS, Curves, Faithfulness, evaluate_faithfulness
from saccade.metrics.localization import Localization, LocalizationScore, localize
from saccade.metrics.road import Road, evaluate_road
from saccade.metrics.sanity import Sanity, sanity_check

__all__ = [
    "RANKINGS",
    "Curves",
    "Faithfulness",
    "Localization",
    "LocalizationScore",
    "Road",
    "Sanity",
    "evaluate_faithfulness",
    "evaluate_road",
    "localize",
    "sanity_check",
]
