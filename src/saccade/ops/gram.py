"""The products of all pairs of rows, with one matrix product in the backward pass instead of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_eager


def gram(x: Tensor, factor: float = 1.0) -> Tensor:
    """Return factor * x x^T.

    The gradient is factor * (dE + dE^T) x, where dE is that of the result E.

    Args:
        x: Rows, (B, C, N).
        factor: Factor of the products.

    Returns:
        Products, (B, C, C).

    Example:
        >>> import torch
        >>> gram(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])).tolist()
        [[[5.0, 6.0], [6.0, 9.0]]]
    """
    if not is_eager():
        return factor * (x @ x.mT)
    result: Tensor = _Gram.apply(x, factor)
    return result


class _Gram(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        ignored = x[:, :1, :1]  # beta=0
        return torch.baddbmm(ignored, x, x.mT, beta=0, alpha=factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], _: Tensor) -> None:
        x, ctx.factor = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.factor * (gradients[0] + gradients[0].mT) @ x, None
