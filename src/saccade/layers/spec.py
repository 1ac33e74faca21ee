"""The spec: the frozen facts about a mechanism, from which catalog, tests, bench and docs follow."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from saccade.maps import AttentionMap

Domain = Literal["channel", "spatial", "mixed", "pairwise", "branch", "sampling", "hard", "temporal"]

#: What the letters of an `Example` stand for unless a caller says otherwise.
#: B batch, C channels, H W T spatial axes, I J those of a coarser map, L Q K sequence lengths, h heads.
SIZES: Mapping[str, int] = MappingProxyType(
    {"B": 2, "C": 32, "H": 8, "W": 6, "T": 3, "I": 4, "J": 3, "L": 10, "Q": 5, "K": 7, "h": 2}
)


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Option:
    """One option of a mechanism, read from the signature of its module."""

    name: str
    default: Any
    annotation: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values allowed, if they are a closed set."""
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()


@dataclass(frozen=True)
class Example:
    """The shapes of one valid call, its letters as in `SIZES`, and the options that it needs.

    `output` is the shape of the result, or of each part of a tuple; by default that of the first input.
    An extent may be a product, as in "B 2*C".

    >>> [tuple(t.shape) for t in Example("B Q C, B K C").inputs(B=1, C=8)]
    [(1, 5, 8), (1, 7, 8)]
    >>> Example("B L C", output="B C, B").output_shapes(B=1, C=8)
    ((1, 8), (1,))
    """

    shapes: str
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None

    def inputs(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        **sizes: int,
    ) -> tuple[Tensor, ...]:
        """Return normally distributed tensors of these shapes."""
        return tuple(
            torch.randn(self._resolve(shape, sizes), device=device, dtype=dtype, generator=generator)
            for shape in self.shapes.split(",")
        )

    def output_shapes(self, **sizes: int) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each part of the result of a call with these inputs."""
        shapes = (self.output or self.shapes.split(",")[0]).split(",")
        return tuple(self._resolve(shape, sizes) for shape in shapes)

    @staticmethod
    def _resolve(shape: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        known = {**SIZES, **sizes}
        return tuple(
            math.prod(known[factor] if factor in known else int(factor) for factor in extent.split("*"))
            for extent in shape.split()
        )


@dataclass(frozen=True)
class Spec:
    """Facts about a mechanism.

    name        public name, equal to the stem of its file
    domain      what its weights act on, equal to the folder of its file
    paper       where it was published
    summary     one line for the catalog
    module      its `nn.Module`, built as `module(channels, **options)`
    function    the same as a function of tensors
    examples    valid calls; the first is the usual one
    maps        the kinds of map that the first example publishes, in order
    selection   "soft": differentiable weights; "hard": a sampled choice
    unit        "item": chooses among items of a sequence; "location": addresses places of one map
    flow        how data pass it, for the catalog's drawing: steps joined by "->", branches side by side
                in brackets, as in "x -> [mean -> sigmoid | ] -> multiply -> y"; an empty branch passes x on
    """

    name: str
    domain: Domain
    paper: Paper
    summary: str
    module: Callable[..., nn.Module]
    function: Callable[..., Any]
    examples: tuple[Example, ...]
    maps: tuple[type[AttentionMap], ...]
    selection: Literal["soft", "hard"] = "soft"
    unit: Literal["item", "location"] = "location"
    flow: str = ""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options, read from the signature of `module` after its first parameter, the channels."""
        init = self.module.__init__ if inspect.isclass(self.module) else self.module
        hints = get_type_hints(init)
        parameters = list(inspect.signature(self.module).parameters.values())[1:]
        return tuple(Option(p.name, p.default, hints.get(p.name, Any)) for p in parameters)

    @property
    def dims(self) -> tuple[int, ...]:
        """The numbers of spatial axes of the maps that it takes: 2 for `(B, C, H, W)`."""
        return tuple(
            dims for dims, shape in ((1, "B C W"), (2, "B C H W"), (3, "B C T H W")) if self._takes(shape)
        )

    @property
    def drop_in(self) -> bool:
        """Whether it takes one image map and returns one of the same shape, so that any slot can hold it."""
        return self._takes("B C H W")

    def _takes(self, shape: str) -> bool:
        return any(e.shapes == shape and e.output is None for e in self.examples)
