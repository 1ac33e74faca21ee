"""Attribution: heat maps that explain one score of a model, from gradients and attention."""

from saccade.attribution.cam import grad_cam, last_layer
from saccade.attribution.legrad import legrad
from saccade.attribution.relevance import relevance
from saccade.attribution.targets import detection_score, segmentation_score, similarity

__all__ = [
    "detection_score",
    "grad_cam",
    "last_layer",
    "legrad",
    "relevance",
    "segmentation_score",
    "similarity",
]
