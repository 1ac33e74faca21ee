"""Attention maps: typed records of what a layer attends to, each of which can render a heat map."""

from saccade.maps.base import AttentionMap, BranchMap, ChannelMap, SpatialMap, normalize
from saccade.maps.criss_cross import CrissCrossMap
from saccade.maps.neighborhood import NeighborhoodMap, neighborhood_bounds
from saccade.maps.pairwise import AdditiveMap, DotProductMap, PairwiseMap, RectifiedSumMap
from saccade.maps.rollout import attention_rollout
from saccade.maps.sampling import FixationMap, GridMap
from saccade.maps.tap import Tap
from saccade.maps.tokens import ClassTokenMap, TokenMap
from saccade.maps.window import WindowMap

__all__ = [
    "AdditiveMap",
    "AttentionMap",
    "BranchMap",
    "ChannelMap",
    "ClassTokenMap",
    "CrissCrossMap",
    "DotProductMap",
    "FixationMap",
    "GridMap",
    "NeighborhoodMap",
    "PairwiseMap",
    "RectifiedSumMap",
    "SpatialMap",
    "Tap",
    "TokenMap",
    "WindowMap",
    "attention_rollout",
    "neighborhood_bounds",
    "normalize",
]
