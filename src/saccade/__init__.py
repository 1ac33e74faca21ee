"""Visual attention for PyTorch: put it in, see where it looks, measure whether it helps."""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "Attachment",
    "Attachments",
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
    "attached",
    "create",
    "detach",
    "export",
    "fuse",
    "load",
    "look",
    "mechanisms",
    "record",
    "register",
    "repair",
    "save",
    "sites",
    "spec",
]

if TYPE_CHECKING:
    from saccade.attachment import (
        Attachment,
        Attachments,
        Site,
        Sites,
        attach,
        attached,
        detach,
        fuse,
        repair,
        sites,
    )
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
    from saccade.exporting import export
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
    from saccade.sharing import load, save
    from saccade.viz import look
else:
    import importlib

    # Modules with public names, in the order of their cost: `saccade --help` needs no torch, and the core
    # neither draws nor trains.
    _MODULES = (
        "errors",
        "maps",
        "layers.spec",
        "layers.registry",
        "attachment",
        "recording",
        "exporting",
        "sharing",
        "viz",
    )

    def __getattr__(name: str) -> Any:
        """Import a public name, or a package, at its first use."""
        if name not in __all__:
            try:
                return importlib.import_module(f"saccade.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"saccade.{name}":
                    raise
                raise AttributeError(f"module 'saccade' has no attribute {name!r}") from None
        for path in _MODULES:
            try:
                module = importlib.import_module(f"saccade.{path}")
            except ModuleNotFoundError as error:
                needed = f"saccade.{name} needs {error.name!r}; pip install 'saccade[report]'"
                raise ModuleNotFoundError(needed, name=error.name) from error
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module 'saccade' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
