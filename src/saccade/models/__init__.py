"""Models that are built around attention."""

from saccade.models.recurrent_attention import RecurrentAttention, Trajectory, hybrid_loss
from saccade.models.residual_attention_network import ResidualAttentionNetwork
from saccade.models.small_cnn import SmallCNN

__all__ = ["RecurrentAttention", "ResidualAttentionNetwork", "SmallCNN", "Trajectory", "hybrid_loss"]
