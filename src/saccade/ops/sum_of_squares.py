"""Sums of squares without a map of squares, in float32 or higher precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_eager

_SQUARES = 1 << 21  # squares held at a time


def sum_of_squares(x: Tensor) -> Tensor:
    """Return the sum of squares over the last axis.

    The sum has at least float32 precision, because squares exceed the range of float16. Squares are held for
    a few images at a time, and the gradient 2 x is computed in one pass. Under compilation, export or
    tracing, it is the plain formula.

    Args:
        x: Values, (B, ..., N).

    Returns:
        Sums, (B, ...), in float32 or the dtype of x if that is more precise.

    Example:
        >>> import torch
        >>> sum_of_squares(torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """
    if not is_eager():
        return _sum(x)
    result: Tensor = _SumOfSquares.apply(x) if torch.is_grad_enabled() else _sum_in_chunks(x)
    return result


def _sum(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(-1)


def _sum_in_chunks(x: Tensor) -> Tensor:
    images = max(1, _SQUARES // max(1, x[:1].numel()))
    return _sum(x) if images >= len(x) else torch.cat([_sum(chunk) for chunk in x.split(images)])


class _SumOfSquares(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _sum_in_chunks(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_x: Tensor = x * (2 * gradients[0]).unsqueeze(-1)
        return d_x.to(x.dtype)
