"""The backward passes of gates and of their statistics, which share one pass over the gradient of the map.

A map enters a gate once, through `Entry`, and its statistics and its gate take it from there. In the backward
pass, each of them computes the gradients of its weights, and leaves what it adds to the gradient of the map
with `Parts`: weights and statistics, which are small. `Entry`, which comes last, reads the gradient of the
output once, and writes the gradient of the map once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saccade._torch import graph_task
from saccade.ops import native_gates


class Parts:
    """What the gradient of a map consists of, for each backward pass that is running.

    Only tensors without a graph are kept here: the graph keeps this object, and neither could be freed.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, Part] = {}

    def current(self) -> Part:
        """Return the part of the backward pass that calls."""
        return self.tasks.setdefault(graph_task(), Part())


@dataclass
class Part:
    """What the gradient of a map consists of, see `native_gates.map_gradient`.

    Attributes:
        weights: Weights of the channels and of the positions, or None.
        of_places: Gradients of mean and maximum over places, and the places of the maxima.
        of_channels: Gradients of mean and maximum over channels, and the channels of the maxima.
    """

    weights: list[Tensor | None] = field(default_factory=lambda: [None, None])
    of_places: list[Tensor | None] = field(default_factory=lambda: [None, None, None])
    of_channels: list[Tensor | None] = field(default_factory=lambda: [None, None, None])


# Without `setup_context`: PyTorch would bind the arguments at each call, which takes as long as a small map.


class Entry(torch.autograd.Function):
    """x, a map (B, C, P), for formulas, and again for `Gate` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts) -> tuple[Tensor, Tensor]:
        ctx.parts, ctx.zeros = parts, {"size": x.shape, "dtype": x.dtype, "device": x.device}
        ctx.set_materialize_grads(False)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (d_x, d_y), part = gradients, ctx.parts.tasks.pop(graph_task(), None)
        if part is None:
            return d_x, None
        d_y = torch.zeros(**ctx.zeros) if d_y is None else d_y
        d_map = native_gates.map_gradient(d_y, *part.weights, *part.of_places, *part.of_channels)
        return d_map if d_x is None else d_map + d_x, None


class PlaceMean(torch.autograd.Function):
    """Mean over the positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts) -> Tensor:
        ctx.parts, ctx.positions = parts, x.shape[2]
        return x.mean(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        d_mean = gradients[0] / ctx.positions
        if torch.is_grad_enabled():
            return d_mean.unsqueeze(2).expand(*d_mean.shape, ctx.positions), None
        ctx.parts.current().of_places[0] = d_mean
        return None, None


class PlaceStatistics(torch.autograd.Function):
    """Mean, maximum and its index over the positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = native_gates.place_statistics(x)
        ctx.parts = parts
        native_gates.save_places(ctx, (x,), output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        if torch.is_grad_enabled():
            return native_gates.gradient_of_places(ctx, *gradients), None
        d_mean, d_maximum, _ = gradients
        ctx.parts.current().of_places = [d_mean / ctx.shape[2], d_maximum, *ctx.saved_tensors]
        return None, None


class ChannelStatistics(torch.autograd.Function):
    """Mean, maximum and its index over the channels of scale * x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, parts: Parts) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = native_gates.channel_statistics(x, scale)
        ctx.parts = parts
        native_gates.save_channels(ctx, (x, scale), output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():
            return *native_gates.gradients_of_channels(ctx, *gradients), None
        d_mean, d_maximum, _ = gradients
        x, scale, index = ctx.saved_tensors
        part, d_mean = ctx.parts.current(), d_mean / x.shape[1]
        part.weights[0], part.of_channels = scale.detach(), [d_mean, d_maximum, index]
        if not ctx.needs_input_grad[1]:
            return None, None, None
        return None, native_gates.channel_statistics_backward(d_mean, d_maximum, index, x), None


class Gate(torch.autograd.Function):
    """Weights of the channels, (B, C), and of the positions, (B, P), or None, times x.

    It takes both outputs of `Entry`. The gradient of the second is that of the result, which `Entry`
    multiplies by the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, scale: Tensor, place: Tensor | None, parts: Parts) -> Tensor:
        ctx.parts = parts
        ctx.save_for_backward(x, scale, place)
        y: Tensor = x * scale.unsqueeze(2) if place is None else native_gates.gate(x, scale, place)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_y,), (x, scale, place) = gradients, ctx.saved_tensors
        if torch.is_grad_enabled():
            d_x, *d_weights = native_gates.gradients_of_gate(d_y, x, scale, place)
            return d_x, None, *d_weights, None
        ctx.parts.current().weights = [scale.detach(), None if place is None else place.detach()]
        d_scale, d_place = native_gates.weights_backward(d_y, x, scale, place)
        return None, d_y, d_scale, d_place if place is not None else None, None
