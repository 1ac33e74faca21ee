"""Attribution: heat maps that explain one score of a model, from gradients and attention."""

from saccade.attribution.attention_relevance import relevance
from saccade.attribution.attention_sensitivity import legrad
from saccade.attribution.cam import CamMethod, grad_cam, last_layer
from saccade.attribution.forward import Inputs, model_inputs
from saccade.attribution.targets import Target, detection_score, segmentation_score, similarity

__all__ = [
    "CamMethod",
    "Inputs",
    "Target",
    "detection_score",
    "grad_cam",
    "last_layer",
    "legrad",
    "model_inputs",
    "relevance",
    "segmentation_score",
    "similarity",
]
