"""Products with gates, and the pools that gates are made of: with gradients in few passes over memory.

A gate costs little arithmetic; what its backward pass costs is large tensors allocated for one use. These
functions have the values and gradients of the formulas. Compiled, exported or traced, they are the formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PRODUCTS = 1 << 20  # numbers held at a time when products are summed


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """Return y = gate * x. x (B, ...), gate of as many axes, each of x's extent or 1 -> as x.

    The gradient of the gate, sum grad * x over the axes on which it is 1, is taken image by image, so that
    the products of the whole batch are never held.

    >>> import torch
    >>> scale(torch.ones(2, 3, 4), torch.tensor([0.5, 1.0]).reshape(2, 1, 1)).sum((1, 2))
    tensor([ 6., 12.])
    """
    result: Tensor = _Scale.apply(x, gate) if _eager() else x * gate
    return result


def mean(x: Tensor) -> Tensor:
    """Return the mean over the last axis; its gradient is a view that is not written out.

    >>> import torch
    >>> mean(torch.tensor([[1.0, 3.0]]))
    tensor([2.])
    """
    result: Tensor = _Mean.apply(x) if _eager() else x.mean(-1)
    return result


def mean_and_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and maximum over one axis; their gradients are one tensor, not two and a sum.

    Among equal values the gradient of the maximum goes to the one that `torch.max` names; compiled, each gets
    an equal share of it, as of `amax`, which a compiler makes one pass of. Both are subgradients.

    >>> import torch
    >>> mean_and_maximum(torch.tensor([[1.0, 3.0]]), 1)
    (tensor([2.]), tensor([3.]))
    """
    if not _eager():
        return x.mean(dim), x.amax(dim)
    average, maximum, _ = _MeanAndMaximum.apply(x, dim)
    return average, maximum


def _eager() -> bool:
    """Whether a backward pass written by hand pays: a compiler fuses the formulas itself."""
    tracing: bool = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return torch.is_grad_enabled() and not tracing


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
        over = [dim for dim in range(1, x.ndim) if gate.shape[dim] == 1]
        of_x = grad * gate if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None
        images = max(1, _PRODUCTS // max(1, x[:1].numel()))
        sums = [
            (a * b).sum(over, keepdim=True) if over else a * b
            for a, b in zip(grad.split(images), x.split(images), strict=True)
        ]
        return of_x, torch.cat(sums).sum_to_size(gate.shape)


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
        share: Tensor = gradients[0] / ctx.length
        return share.unsqueeze(-1).expand(*share.shape, ctx.length)


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
        of_mean, of_maximum, _ = (grad.unsqueeze(ctx.dim) for grad in gradients)
        x, index = ctx.saved_tensors
        spread = torch.empty_like(x).copy_(of_mean / x.shape[ctx.dim])  # in the layout of x
        return spread.scatter_add_(ctx.dim, index.unsqueeze(ctx.dim), of_maximum), None
