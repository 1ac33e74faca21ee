"""Adapters: how `record` observes attention of other libraries, which publishes no map."""

from saccade.recording.adapters.observe import Adapter, is_observed
from saccade.recording.adapters.registry import ADAPTERS, find_attention
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes
from saccade.recording.adapters.vit import FALLBACKS

__all__ = [
    "ADAPTERS",
    "FALLBACKS",
    "Adapter",
    "AttentionSite",
    "FeatureShapes",
    "find_attention",
    "is_observed",
]
