"""Adapters: how `record` observes attention that publishes no map of its own."""

from saccade.recording.adapters.observe import Adapter, Handle, is_watched
from saccade.recording.adapters.registry import ADAPTERS, COMPILED, find
from saccade.recording.adapters.tokens import FeatureShapes

__all__ = ["ADAPTERS", "COMPILED", "Adapter", "FeatureShapes", "Handle", "find", "is_watched"]
