"""The spec of a mechanism: the facts that the catalog, tests, profiling and documentation use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from saccade.layers.dims import AXES
from saccade.layers.facts import Domain as Domain
from saccade.layers.facts import Paper as Paper
from saccade.maps import AttentionMap

#: Default values of the letters of an `Example`: B batch, C channels, H W T spatial axes, I J spatial axes of
#: a coarser map, L Q K sequence lengths, h heads.
SIZES: Mapping[str, int] = MappingProxyType(
    {"B": 2, "C": 32, "H": 8, "W": 6, "T": 3, "I": 4, "J": 3, "L": 10, "Q": 5, "K": 7, "h": 2}
)


@dataclass(frozen=True)
class Option:
    """One option of a mechanism, from the signature of its module."""

    name: str
    default: Any
    annotation: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values if the annotation is a `Literal`, else empty."""
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()


@dataclass(frozen=True)
class Example:
    """The shapes of one valid call, and the options that it needs.

    Attributes:
        shapes: The shape of each input, for example `"B Q C, B K C"`. `SIZES` holds the letters. A size may
            be a product, as in `"B 2*C"`.
        options: Options of the mechanism.
        output: The shape of the result, or of each part of a tuple; by default, the shape of the first input.

    Example:
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
        """Return normally distributed tensors of these shapes. `sizes` override `SIZES`."""
        return tuple(
            torch.randn(self._resolve(shape, sizes), device=device, dtype=dtype, generator=generator)
            for shape in self.shapes.split(",")
        )

    def output_shapes(self, **sizes: int) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each part of the result. `sizes` override `SIZES`."""
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
    """The facts about a mechanism.

    Attributes:
        name: Public name. For a built-in mechanism, the name of its file.
        domain: What the weights act on. For a built-in mechanism, the folder of its file.
        paper: The publication.
        summary: One line for the catalog.
        module: The `nn.Module`, created as `module(channels, **options)`.
        function: The computation as a function of tensors.
        examples: Valid calls. The first is the usual one.
        maps: The types of the maps that the first example publishes, in order.
        selection: "soft" for differentiable weights, "hard" for a sampled choice.
        unit: "item" if the weights select items of a sequence, "location" if they select locations of a map.
        flow: The data flow, for the drawing of the catalog: steps joined by "->" and parallel branches in
            brackets, as in "x -> [mean -> sigmoid | ] -> multiply -> y". An empty branch passes x on.
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
        """The options: the parameters of `module` after the first, which is the number of channels."""
        init = self.module.__init__ if inspect.isclass(self.module) else self.module
        hints = get_type_hints(init)
        parameters = list(inspect.signature(self.module).parameters.values())[1:]
        return tuple(Option(p.name, p.default, hints.get(p.name, Any)) for p in parameters)

    @property
    def dims(self) -> tuple[int, ...]:
        """The accepted numbers of spatial axes, for example 2 for (B, C, H, W)."""
        return tuple(dims for dims, axes in AXES.items() if self.options_for(axes) is not None)

    @property
    def drop_in(self) -> bool:
        """Whether the mechanism maps (B, C, H, W) to the same shape, so that it fits any slot of a model."""
        return self.options_for("B C H W") is not None

    def options_for(self, axes: str) -> Mapping[str, Any] | None:
        """Return the options that the mechanism needs to map one tensor to the same shape.

        Args:
            axes: The axes of the tensor, for example `"B C T H W"`.

        Returns:
            The options that all examples of these axes have, for example `{"dims": 3}`. None if the mechanism
            does not map such a tensor to the same shape.
        """
        fitting = [e.options for e in self.examples if e.shapes == axes and e.output is None]
        if not fitting:
            return None
        return {key: value for key, value in fitting[0].items() if all(o.get(key) == value for o in fitting)}
