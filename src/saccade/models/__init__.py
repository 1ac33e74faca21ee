"""Models that are built around attention."""

from saccade.models.recurrent_attention import RecurrentAttention, Trajectory, hybrid_loss
from saccade.models.small_cnn import SmallCNN

__all__ = ["RecurrentAttention", "SmallCNN", "Trajectory", "hybrid_loss"]
