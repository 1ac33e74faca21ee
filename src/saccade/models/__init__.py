"""Models that are built around attention, and the losses `info_nce` for what they learn from pairs."""

from saccade.models import info_nce
from saccade.models.simple_vit import SimpleViT
from saccade.models.small_cnn import SmallCNN
from saccade.models.vit import ViT

__all__ = ["SimpleViT", "SmallCNN", "ViT", "info_nce"]
