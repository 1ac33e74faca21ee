"""Visual attention for PyTorch: put it in, see where it looks, measure whether it helps."""

from saccade.attach import Site, Sites, attach, detach, sites
from saccade.errors import (
    BadData,
    BadOption,
    BadRecipe,
    BadRun,
    BadShape,
    NothingRecorded,
    SaccadeError,
    UnknownName,
)
from saccade.maps import AttentionMap, BranchMap, ChannelMap, PairwiseMap, SpatialMap
from saccade.places import FixationMap, GridMap
from saccade.record import Maps, record
from saccade.registry import create, mechanisms, register, spec
from saccade.spec import Example, Option, Paper, Spec
from saccade.tap import Tap

__version__ = "0.1.0"

__all__ = [
    "AttentionMap",
    "BadData",
    "BadOption",
    "BadRecipe",
    "BadRun",
    "BadShape",
    "BranchMap",
    "ChannelMap",
    "Example",
    "FixationMap",
    "GridMap",
    "Maps",
    "NothingRecorded",
    "Option",
    "PairwiseMap",
    "Paper",
    "SaccadeError",
    "Site",
    "Sites",
    "SpatialMap",
    "Spec",
    "Tap",
    "UnknownName",
    "attach",
    "create",
    "detach",
    "mechanisms",
    "record",
    "register",
    "sites",
    "spec",
]
