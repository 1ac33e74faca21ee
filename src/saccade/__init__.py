"""Visual attention for PyTorch: put it in, see where it looks, measure whether it helps."""

from typing import TYPE_CHECKING, Any

from saccade.attachment import Site, Sites, attach, detach, sites
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
from saccade.layers.registry import create, mechanisms, register, spec
from saccade.layers.spec import Example, Option, Paper, Spec
from saccade.maps import (
    AttentionMap,
    BranchMap,
    ChannelMap,
    ClassTokenMap,
    FixationMap,
    GridMap,
    PairwiseMap,
    SpatialMap,
    Tap,
    TokenMap,
    WindowMap,
)
from saccade.recording import Maps, record

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
    "ClassTokenMap",
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
    "TokenMap",
    "UnknownName",
    "WindowMap",
    "attach",
    "create",
    "detach",
    "look",
    "mechanisms",
    "record",
    "register",
    "sites",
    "spec",
]

if TYPE_CHECKING:
    from saccade.viz import look
else:

    def __getattr__(name: str) -> Any:
        """Import `look` at its first use: drawing needs more packages than the core."""
        if name != "look":
            raise AttributeError(f"module 'saccade' has no attribute {name!r}")
        try:
            from saccade.viz import look
        except ModuleNotFoundError as error:
            needed = f"saccade.look needs {error.name!r}; pip install 'saccade[report]'"
            raise ModuleNotFoundError(needed, name=error.name) from error
        globals()["look"] = look
        return look
