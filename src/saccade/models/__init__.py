"""Models that are built around attention, and losses for what they learn."""

from saccade.models.simple_vit import SimpleViT
from saccade.models.small_cnn import SmallCNN
from saccade.models.vit import ViT

__all__ = ["SimpleViT", "SmallCNN", "ViT"]
