"""Gates and pools of any map, with backward passes that hold little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade._torch import is_transformed
from saccade.ops.eager import is_eager

_PRODUCTS = 1 << 20  # products held at a time while they are summed

#: Types in which a mean is a sum divided. Its backward pass divides first and expands a view; that of a mean
#: divides a whole map. A mean in another type has a sum of higher precision.
_SUMMED = (torch.float32, torch.float64)


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """Return gate * x."""
    result: Tensor = _Scale.apply(x, gate) if _saves_memory(x) else x * gate
    return result


def mean_and_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the maximum over one axis."""
    if not _has_custom_passes():
        return x.mean(dim), x.amax(dim)
    average, maximum, _ = _MeanAndMaximum.apply(x, dim)
    return average, maximum


def mean(x: Tensor) -> Tensor:
    """Return the mean over the last axis."""
    if x.dtype in _SUMMED and is_eager() and not is_transformed():
        return x.sum(-1) / x.shape[-1]
    result: Tensor = _Mean.apply(x) if _saves_memory(x) else x.mean(-1)
    return result


def _has_custom_passes() -> bool:
    """Return whether to use the custom backward passes: a compiler fuses the plain formulas by itself."""
    return torch.is_grad_enabled() and is_eager()


def _saves_memory(x: Tensor) -> bool:
    """Return whether a custom pass holds less than the formula. Its call takes longer than a small map."""
    return _has_custom_passes() and x.numel() > _PRODUCTS


class _Scale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> Tensor:
        return x * gate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (x, gate) = gradients, ctx.saved_tensors
        reduced = [dim for dim in range(1, x.ndim) if gate.shape[dim] == 1]
        d_x = grad * gate if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None
        images = max(1, _PRODUCTS // max(1, x[:1].numel()))
        sums = [
            (a * b).sum(reduced, keepdim=True) if reduced else a * b
            for a, b in zip(grad.split(images), x.split(images), strict=True)
        ]
        return d_x, torch.cat(sums).sum_to_size(gate.shape)


class _Mean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.mean(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        ctx.length = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        d_each: Tensor = gradients[0] / ctx.length
        return d_each.unsqueeze(-1).expand(*d_each.shape, ctx.length)


class _MeanAndMaximum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        maximum, index = x.max(dim)
        return x.mean(dim), maximum, index

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, ctx.dim = inputs
        ctx.save_for_backward(x, output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        d_mean, d_maximum, _ = (grad.unsqueeze(ctx.dim) for grad in gradients)
        x, index = ctx.saved_tensors
        d_x = torch.empty_like(x).copy_(d_mean / x.shape[ctx.dim])  # in the memory format of x
        return d_x.scatter_add_(ctx.dim, index.unsqueeze(ctx.dim), d_maximum), None
