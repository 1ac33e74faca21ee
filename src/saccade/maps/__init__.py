"""Attention maps: typed records of what a layer attends to, each of which can render a heat map."""

from saccade.maps.additive import AdditiveMap
from saccade.maps.base import AttentionMap, BranchMap, ChannelMap, SpatialMap, normalize
from saccade.maps.criss_cross import CrissCrossMap
from saccade.maps.halo import HaloMap
from saccade.maps.neighborhood import NeighborhoodMap, neighborhood_bounds
from saccade.maps.offset import OffsetMap
from saccade.maps.pairwise import DotProductMap, PairwiseMap, RectifiedSumMap, Sinks, chunks
from saccade.maps.rollout import HeadFusion, attention_rollout
from saccade.maps.sampling import FixationMap, GridMap, sampling_density
from saccade.maps.tap import Tap
from saccade.maps.temporal import TemporalMap, temporal_weights
from saccade.maps.tokens import ClassTokenMap, TokenMap, UnplacedWindowMap
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
    "HaloMap",
    "HeadFusion",
    "NeighborhoodMap",
    "OffsetMap",
    "PairwiseMap",
    "RectifiedSumMap",
    "Sinks",
    "SpatialMap",
    "Tap",
    "TemporalMap",
    "TokenMap",
    "UnplacedWindowMap",
    "WindowMap",
    "attention_rollout",
    "chunks",
    "neighborhood_bounds",
    "normalize",
    "sampling_density",
    "temporal_weights",
]
