"""Models that are built around attention."""

from saccade.models.small_cnn import SmallCNN

__all__ = ["SmallCNN"]
