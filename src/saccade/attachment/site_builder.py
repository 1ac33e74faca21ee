"""Construction of a mechanism for a place: whether it fits there, how it starts and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.attachment.hooks import Construction
from saccade.attachment.site import Site, Start
from saccade.errors import BadOption, BadShape, SaccadeError
from saccade.grammar import check_options, merge_options
from saccade.layers.aliases import resolve_alias
from saccade.layers.dims import AXES
from saccade.layers.registry import create, spec, specs
from saccade.layers.spec import Spec
from saccade.maps import PairwiseMap

#: What a mechanism takes: `(B, L, C)`, `(B, C, ...)`, or the map `(B, C, ...)` of tokens.
Layout = Literal["sequence", "map", "grid"]

_SEQUENCE = "B L C"
_TOLERANCE = 1e-4  # of the largest value, for a transform that is the identity up to rounding


class SiteBuilder:
    """Builds a mechanism for one place after another. Places of the same shape are measured once."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        self.name, self.options = resolve_alias(*merge_options(text, options))
        check_options(self.name, self.options, [option.name for option in spec(self.name).options])
        self._measurements: dict[object, tuple[Start, int, int]] = {}

    def build(self, site: Site) -> tuple[nn.Module, Layout, Construction]:
        """Return a mechanism for a place, the layout that it takes, and how it was built.

        Raises:
            BadOption: With the path of the place, if the mechanism does not take such features.
        """
        with _errors_at(site.path):
            needed, layout = self._layout(site)
            options = {**needed, **self._narrow(site), **self.options}
            construction = Construction(self.name, site.channels, options)
            mechanism = create(construction.name, construction.channels, **construction.options)
            return mechanism, layout, construction

    def measure(self, site: Site) -> tuple[Start, int, int]:
        """Return the output of the mechanism at initialization, its number of parameters, and its FLOPs.

        The mechanism runs on random features of the shape of the place, in both modes.

        Raises:
            BadOption: If the mechanism fails there or returns another shape.
        """
        from saccade.profiling import flops  # its counter takes as long to import as the rest of the package

        key = site.shape, site.grid, site.kind == "input"
        if key not in self._measurements:
            module, layout, _ = self.build(site)
            extents = site.grid if layout == "grid" and site.grid else site.shape[1:]
            x = torch.randn(
                (2, *extents, site.channels) if layout == "sequence" else (2, site.channels, *extents)
            )
            with _errors_at(site.path), torch.no_grad():
                outputs = [module.train(mode)(x) for mode in (False, True)]
                for y in outputs:
                    if not isinstance(y, Tensor) or y.shape != x.shape:
                        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                        message = f"{self.name} returns {shape}, expected its input shape {tuple(x.shape)}"
                        raise BadShape(message, owner=self.name, option="shape", value=shape)
                parameters = sum(p.numel() for p in module.parameters())
                self._measurements[key] = _start(x, outputs), parameters, flops(module, x[:1])
        return self._measurements[key]

    def ignores_first_tokens(self, site: Site) -> bool:
        """Return whether the mechanism attends to the grid of tokens alone and the first ones pass by."""
        try:
            layout = self._layout(site)[1]
        except BadOption:
            return False
        return layout == "grid" and site.grid is not None and site.shape[1] > prod(site.grid)

    def no_influence(self, site: Site) -> BadOption:
        """Return the error of a place behind which nothing reads what the mechanism attends to."""
        cause = "no output depends on the tokens of the grid there (a head that reads the class token alone)"
        message = f"{site.path}: {cause}, so that {self.name} would never train"
        return BadOption(message, owner="attach", option="where", value=site.path)

    def _narrow(self, site: Site) -> dict[str, int]:
        """Return the reductions whose default leaves no channel, with values that leave four.

        An image is refused: its channels are no features.
        """
        defaults = {o.name: o.default for o in spec(self.name).options if o.name.endswith("reduction")}
        too_large = [name for name, n in defaults.items() if isinstance(n, int) and n > site.channels]
        return {} if site.kind == "input" else dict.fromkeys(too_large, max(1, site.channels // 4))

    def _layout(self, site: Site) -> tuple[Mapping[str, Any], Layout]:
        """Return the options that the features of a place need, and the layout that the mechanism takes."""
        for axes, layout in _layouts(site, spec(self.name), self.options.get("dims")):
            needed = spec(self.name).options_for(axes)
            if needed is not None:
                return needed, layout
        others = [other.name for other in specs() if _fits(site, other)]
        count = len(site.shape) - 1
        features = f"features with {count} spatial {'axis' if count == 1 else 'axes'}, here {site.shape},"
        message = f"{self.name} does not map {features} to the same shape; choose from {', '.join(others)}"
        if _is_tokens(site) and 1 in spec(self.name).dims:
            message += "; dims=1 takes these tokens, whose grid is unknown, as a sequence"
        raise BadOption(message, owner=self.name, option="shape", value=site.shape, choices=others)


@contextmanager
def construction() -> Iterator[None]:
    """Build modules on the CPU, as ordinary tensors, without changing the random state."""
    with torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.device("cpu"):
        yield


@contextmanager
def _errors_at(path: str) -> Iterator[None]:
    """Name the place in the errors of a mechanism."""
    try:
        yield
    except SaccadeError as error:
        fields = {name: getattr(error, name) for name in ("owner", "option", "value", "choices")}
        raise BadOption(f"{path}: {error}", **fields) from error
    except RuntimeError as error:
        message = f"{path}: the mechanism fails there: {error}"
        raise BadOption(message, owner="attach", option="where", value=path) from error


def _layouts(site: Site, mechanism: Spec, dims: object = None) -> list[tuple[str, Layout]]:
    """Return the axes and layouts in which a mechanism can take the features of a place, the preferred first.

    Tokens are a sequence, or a map if their grid is known. The option `dims` of a mechanism says which. If it
    is not given, a mechanism that relates all pairs of positions takes the sequence with its class tokens,
    since order means nothing to it, and any other one the map.
    """
    axes = len(site.shape) - 1
    maps: list[tuple[str, Layout]] = [(AXES[axes], "map")]
    if axes > 1:
        return maps
    sequences = [*maps, (_SEQUENCE, "sequence")]
    grids: list[tuple[str, Layout]] = [] if site.grid is None else [(AXES[len(site.grid)], "grid")]
    if not _is_tokens(site) or not any(option.name == "dims" for option in mechanism.options):
        return sequences + grids
    if dims is not None:
        return sequences if dims == 1 else grids
    return sequences if issubclass(mechanism.maps[0], PairwiseMap) else grids


def _is_tokens(site: Site) -> bool:
    return len(site.shape) == 2 and site.channels_last


def _fits(site: Site, mechanism: Spec) -> bool:
    return any(mechanism.options_for(axes) is not None for axes, _ in _layouts(site, mechanism))


def _start(x: Tensor, outputs: Sequence[Tensor]) -> Start:
    """Return whether a mechanism is the identity at initialization, from its outputs for random features."""
    if all(torch.equal(x, y) for y in outputs):
        return "identity"
    error = max((y - x).abs().max().item() for y in outputs)
    return "near identity" if error < _TOLERANCE * x.abs().max().item() else "zero gate"
