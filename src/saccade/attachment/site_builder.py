"""Fitting a mechanism to a place: is it one for such features, how does it start, what does it cost?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.attachment.site import Site, Start
from saccade.errors import BadOption, BadShape, SaccadeError
from saccade.grammar import check_options, merge_options
from saccade.layers.registry import create, mechanisms, spec
from saccade.layers.spec import Spec

_SEQUENCE = "B L C"
_MAPS = {1: "B C W", 2: "B C H W", 3: "B C T H W"}
_NEARLY = 1e-4  # of the largest value: rounding, in a transform that is the identity on paper


@dataclass(frozen=True)
class Fit:
    """A mechanism for the features of one shape."""

    start: Start
    parameters: int
    flops: int


class SiteBuilder:
    """Builds a mechanism for one place after another; places of one shape are measured once."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        self.name, self.options = merge_options(text, options)
        check_options(self.name, self.options, [option.name for option in spec(self.name).options])
        self._fits: dict[tuple[int, ...], Fit] = {}

    def build(self, site: Site) -> tuple[nn.Module, bool]:
        """Return a mechanism for a place, and whether it takes its features channels first.

        Raises `BadOption` with the place's path if the mechanism does not take such features.
        """
        with _named(site.path):
            needed, is_map = self._form(site)
            return create(self.name, site.channels, **{**needed, **self.options}), is_map

    def fit(self, site: Site) -> Fit:
        """Run the mechanism on random features of the place's shape, in both modes.

        Raises `BadOption` if it fails there or returns another shape.
        """
        from saccade.profiling import flops  # its counter takes as long to load as the rest of the package

        if site.shape not in self._fits:
            module, is_map = self.build(site)
            channels, *extents = site.shape
            x = torch.randn((2, channels, *extents) if is_map else (2, *extents, channels))
            with _named(site.path), torch.no_grad():
                evaluated, trained = (module.train(mode)(x) for mode in (False, True))
                for y in (evaluated, trained):
                    if not isinstance(y, Tensor) or y.shape != x.shape:
                        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                        raise BadShape(
                            f"{self.name} returns {got}, not the shape {tuple(x.shape)} it is given"
                        )
                parameters = sum(p.numel() for p in module.parameters())
                self._fits[site.shape] = Fit(_start(x, evaluated, trained), parameters, flops(module, x[:1]))
        return self._fits[site.shape]

    def _form(self, site: Site) -> tuple[dict[str, Any], bool]:
        """Return the options that features of so many axes need, and whether they go in channels first."""
        axes, its = len(site.shape) - 1, spec(self.name)
        for shape in (_MAPS[axes], _SEQUENCE)[: 2 if axes == 1 else 1]:
            examples = [e.options for e in its.examples if e.shapes == shape and e.output is None]
            if examples:
                needed = {k: v for k, v in examples[0].items() if all(e.get(k) == v for e in examples)}
                return needed, shape != _SEQUENCE
        others = [name for name in mechanisms() if _takes(spec(name), axes)]
        raise BadOption(
            f"{self.name} does not take and return one map of {axes} spatial "
            f"{'axis' if axes == 1 else 'axes'}, as here, {site.shape}; these do: {', '.join(others)}"
        )


@contextmanager
def building() -> Iterator[None]:
    """Let modules be built on the CPU, as ordinary tensors, without a change of the random state."""
    with torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.device("cpu"):
        yield


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Say at which place a mechanism fails."""
    try:
        yield
    except SaccadeError as error:
        raise BadOption(f"{path}: {error}") from error
    except RuntimeError as error:
        raise BadOption(f"{path}: the mechanism fails there: {error}") from error


def _takes(its: Spec, axes: int) -> bool:
    shapes = (_MAPS[axes], _SEQUENCE) if axes == 1 else (_MAPS[axes],)
    return any(e.shapes in shapes and e.output is None for e in its.examples)


def _start(x: Tensor, evaluated: Tensor, trained: Tensor) -> Start:
    """Tell whether a mechanism is the identity at its start, from what it makes of random features."""
    if torch.equal(x, evaluated) and torch.equal(x, trained):
        return "identity"
    error = max((y - x).abs().max().item() for y in (evaluated, trained))
    return "near identity" if error < _NEARLY * x.abs().max().item() else "zero gate"
