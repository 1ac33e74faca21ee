"""Convolutions of a few maps to one in native loops on the CPU, as an operator of PyTorch."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional as F

from saccade.ops import convolution_loops
from saccade.ops.loops import run_loop


@library.custom_op("saccade::convolution", mutates_args=(), device_types="cpu")
def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Return the map (B, 1, ...) of maps (B, D, ...) and weights (1, D, ...) of odd size; padding is zero."""
    layout = _Layout.of(x.shape[2:], weight.shape[2:])
    y = x.new_empty(len(x), layout.length)
    weights = weight.contiguous().view(x.shape[1], -1)
    run_loop(convolution_loops.convolution, len(x), layout.offsets, layout.lines(x), weights, y)
    return layout.map_of(y).contiguous()


@library.custom_op("saccade::convolution_backward", mutates_args=(), device_types="cpu")
def convolution_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the maps and of the weights."""
    layout = _Layout.of(x.shape[2:], weight.shape[2:])
    lines, weights = layout.lines(x), weight.contiguous().view(x.shape[1], -1)
    grad = x.new_zeros(len(x), layout.length)
    layout.map_of(grad).copy_(d_y)
    d_lines, d_weight = torch.empty_like(lines), x.new_empty(len(x), *weights.shape)
    given = (layout.offsets, grad, lines, weights)
    run_loop(convolution_loops.convolution_backward, len(x), *given, d_lines, d_weight, reassociate=True)
    d_x = d_lines.view(*x.shape[:2], *layout.padded)
    for dim, padding in enumerate(layout.padding, 2):
        d_x = d_x.narrow(dim, padding, x.shape[dim])
    return d_x.contiguous(), d_weight.sum(0).view_as(weight)


class _Layout:
    """How maps with zero padding lie in memory, as one line for each."""

    def __init__(self, extents: torch.Size, sizes: torch.Size) -> None:
        self.extents = extents
        self.padding = [size // 2 for size in sizes]
        self.padded = [n + 2 * p for n, p in zip(self.extents, self.padding, strict=True)]
        self.strides = [math.prod(self.padded[axis + 1 :]) for axis in range(len(self.padded))]
        self.length = 1 + sum((n - 1) * s for n, s in zip(self.extents, self.strides, strict=True))
        axes = (torch.arange(k) * s for k, s in zip(sizes, self.strides, strict=True))
        offsets = torch.zeros((), dtype=torch.int64)
        for axis in axes:
            offsets = offsets[..., None] + axis
        self.offsets = offsets.flatten()

    @staticmethod
    @lru_cache(maxsize=64)
    def of(extents: torch.Size, sizes: torch.Size) -> _Layout:
        """Return the layout of maps and a kernel, which is computed once."""
        return _Layout(extents, sizes)

    def lines(self, x: Tensor) -> Tensor:
        """Return maps with their padding as lines, (B, D, .)."""
        return F.pad(x, [p for padding in reversed(self.padding) for p in (padding, padding)]).flatten(2)

    def map_of(self, y: Tensor) -> Tensor:
        """Return the map, (B, 1, ...), that is in lines (B, `length`)."""
        shape = (len(y), 1, *self.extents)
        return y.as_strided(shape, (self.length, self.length, *self.strides))


# Shapes alone, for tracing.
convolution.register_fake(lambda x, _: x.new_empty(x.shape[0], 1, *x.shape[2:]))
convolution_backward.register_fake(lambda _, *inputs: tuple(t.new_empty(t.shape) for t in inputs))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
    x, weight = ctx.saved_tensors
    if not torch.is_grad_enabled():
        gradients: tuple[Tensor, ...] = convolution_backward(d_y, x, weight)
        return gradients
    ones, padding = [1] * (x.ndim - 2), [size // 2 for size in weight.shape[2:]]
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        *(d_y, x, weight, None, ones, padding, ones, False, [0] * len(ones), 1, [True, True, False])
    )
    return d_x, d_weight


convolution.register_autograd(_gradients, setup_context=_save)
