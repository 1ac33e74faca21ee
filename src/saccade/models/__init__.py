"""Models built around attention, and the InfoNCE losses in the module `info_nce`."""

from saccade.models import info_nce
from saccade.models.backbone import SOURCES, head_path, input_of, load_backbone, split_source
from saccade.models.pretrained import join_differences, list_differences, overwrite_state, read_tensors
from saccade.models.recurrent_attention import RecurrentAttention, Trajectory, hybrid_loss
from saccade.models.residual_attention_network import ResidualAttentionNetwork
from saccade.models.simple_vit import SimpleViT
from saccade.models.small_cnn import ClipCNN, SmallCNN, pools
from saccade.models.timm_attention import from_timm
from saccade.models.unet import UNet
from saccade.models.vit import ViT

__all__ = [
    "SOURCES",
    "ClipCNN",
    "RecurrentAttention",
    "ResidualAttentionNetwork",
    "SimpleViT",
    "SmallCNN",
    "Trajectory",
    "UNet",
    "ViT",
    "from_timm",
    "head_path",
    "hybrid_loss",
    "info_nce",
    "input_of",
    "join_differences",
    "list_differences",
    "load_backbone",
    "overwrite_state",
    "pools",
    "read_tensors",
    "split_source",
]
