"""Adapters: how `record` observes attention of other libraries, which publishes no map."""

from saccade.recording.adapters.observe import Adapter, is_observed
from saccade.recording.adapters.registry import ADAPTERS, find_attention
from saccade.recording.adapters.tokens import FeatureShapes

__all__ = ["ADAPTERS", "Adapter", "FeatureShapes", "find_attention", "is_observed"]
