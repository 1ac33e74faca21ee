"""Models that are built around attention."""

from saccade.models.residual_attention_network import ResidualAttentionNetwork
from saccade.models.small_cnn import SmallCNN

__all__ = ["ResidualAttentionNetwork", "SmallCNN"]
