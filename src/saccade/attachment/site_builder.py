"""Construction of a mechanism for a place: whether it fits there, how it starts and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.attachment.hooks import Construction
from saccade.attachment.site import Site, Start
from saccade.errors import BadOption, BadShape, SaccadeError
from saccade.grammar import check_options, merge_options
from saccade.layers.aliases import resolve_alias
from saccade.layers.registry import create, spec, specs
from saccade.layers.spec import Spec

#: What a mechanism takes: `(B, L, C)`, `(B, C, ...)`, or the map `(B, C, ...)` of tokens.
Layout = Literal["sequence", "map", "grid"]

_SEQUENCE = "B L C"
_MAPS = {2: "B C H W", 3: "B C T H W"}  # of features by their spatial axes
_SHAPES = {1: ("B C W", _SEQUENCE), **{axes: (shapes,) for axes, shapes in _MAPS.items()}}
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
            construction = Construction(self.name, site.channels, {**needed, **self.options})
            mechanism = create(construction.name, construction.channels, **construction.options)
            return mechanism, layout, construction

    def measure(self, site: Site) -> tuple[Start, int, int]:
        """Return the output of the mechanism at initialization, its number of parameters, and its FLOPs.

        The mechanism runs on random features of the shape of the place, in both modes.

        Raises:
            BadOption: If the mechanism fails there or returns another shape.
        """
        from saccade.profiling import flops  # its counter takes as long to import as the rest of the package

        key = site.shape, site.grid
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

    def _layout(self, site: Site) -> tuple[dict[str, Any], Layout]:
        """Return the options that the features of a place need, and the layout that the mechanism takes."""
        axes = len(site.shape) - 1
        layouts: list[tuple[str, Layout]] = [
            (shapes, "sequence" if shapes == _SEQUENCE else "map") for shapes in _SHAPES[axes]
        ]
        if site.grid is not None:
            layouts.append((_MAPS[len(site.grid)], "grid"))
        for shapes, layout in layouts:
            if examples := _options(spec(self.name), shapes):
                needed = {k: v for k, v in examples[0].items() if all(e.get(k) == v for e in examples)}
                return needed, layout
        others = [other.name for other in specs() if any(_options(other, shapes) for shapes, _ in layouts)]
        features = f"features with {axes} spatial {'axis' if axes == 1 else 'axes'}, here {site.shape},"
        message = f"{self.name} does not map {features} to the same shape; choose from {', '.join(others)}"
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


def _options(mechanism: Spec, shapes: str) -> list[Mapping[str, Any]]:
    """Return the options of the examples that map features of these shapes to the same shape."""
    return [e.options for e in mechanism.examples if e.shapes == shapes and e.output is None]


def _start(x: Tensor, outputs: Sequence[Tensor]) -> Start:
    """Return whether a mechanism is the identity at initialization, from its outputs for random features."""
    if all(torch.equal(x, y) for y in outputs):
        return "identity"
    error = max((y - x).abs().max().item() for y in outputs)
    return "near identity" if error < _TOLERANCE * x.abs().max().item() else "zero gate"
