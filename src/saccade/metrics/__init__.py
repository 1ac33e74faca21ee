"""Metrics of heat maps: localization, faithfulness, dependence on the weights. Metrics of segmentation."""

from saccade.metrics.faithfulness import RANKINGS, Curves, Faithfulness, evaluate_faithfulness
from saccade.metrics.localization import Localization, LocalizationScore, localize
from saccade.metrics.road import Road, evaluate_road
from saccade.metrics.sanity import Sanity, sanity_check
from saccade.metrics.segmentation import boundary_f1, confusion_matrix, dice, iou, mean_iou

__all__ = [
    "RANKINGS",
    "Curves",
    "Faithfulness",
    "Localization",
    "LocalizationScore",
    "Road",
    "Sanity",
    "boundary_f1",
    "confusion_matrix",
    "dice",
    "evaluate_faithfulness",
    "evaluate_road",
    "iou",
    "localize",
    "mean_iou",
    "sanity_check",
]
