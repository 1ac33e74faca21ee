"""Recording: collect the attention maps of a model while it runs."""

from saccade.recording.adapters import ADAPTERS, Adapter, AttentionSite, FeatureShapes
from saccade.recording.capture import Capture
from saccade.recording.flex_attention import FlexCall
from saccade.recording.operations import Logits, Weights
from saccade.recording.outliers import outlying_tokens
from saccade.recording.positions import Route
from saccade.recording.recorder import Maps, record
from saccade.recording.running import is_within

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AttentionSite",
    "Capture",
    "FeatureShapes",
    "FlexCall",
    "Logits",
    "Maps",
    "Route",
    "Weights",
    "is_within",
    "outlying_tokens",
    "record",
]
