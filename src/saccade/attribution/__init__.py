"""Attribution: heat maps that explain one score of a model, from gradients and attention."""

from saccade.attribution.attention_relevance import relevance
from saccade.attribution.attention_sensitivity import legrad
from saccade.attribution.cam import CamMethod, grad_cam, last_layer
from saccade.attribution.comparison import Explanation, ExplanationScores, compare_explanations, explain
from saccade.attribution.forward import Inputs, model_inputs, run_model
from saccade.attribution.targets import Target, detection_score, segmentation_score, similarity

__all__ = [
    "CamMethod",
    "Explanation",
    "ExplanationScores",
    "Inputs",
    "Target",
    "compare_explanations",
    "detection_score",
    "explain",
    "grad_cam",
    "last_layer",
    "legrad",
    "model_inputs",
    "relevance",
    "run_model",
    "segmentation_score",
    "similarity",
]
