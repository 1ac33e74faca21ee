"""The larger of two gated copies of a map, max(a x, b x), of which neither copy is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_eager

_PRODUCTS = 1 << 20  # products held at a time in the backward pass


def larger_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return max(a * x, b * x), element by element.

    Values and gradients are those of `torch.maximum`: where both products are equal, such as at x = 0, each
    receives half of the gradient. The backward pass keeps x and the gates alone, and computes both products
    again for a few images at a time. Under compilation, export or tracing, it is the plain formula.

    Args:
        x: Features, (B, ...).
        a: Weights with the axes of x, each of the same size or 1.
        b: Weights, in the same way.

    Returns:
        A tensor of the shape of x.

    Example:
        >>> import torch
        >>> larger_product(torch.tensor([[2.0, -2.0]]), torch.tensor([[0.5]]), torch.tensor([[1.0]]))
        tensor([[ 2., -1.]])
    """
    if not (is_eager() and torch.is_grad_enabled()):
        return torch.maximum(a * x, b * x)
    result: Tensor = _LargerProduct.apply(x, a, b)
    return result


class _LargerProduct(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a * x, b * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, a, b = ctx.saved_tensors
        images = max(1, _PRODUCTS // max(1, x[:1].numel()))
        parts = [
            _gradients(*chunk)
            for chunk in zip(*(z.split(images) for z in (gradients[0], x, a, b)), strict=True)
        ]
        d_x, d_a, d_b = (torch.cat(part) for part in zip(*parts, strict=True))
        return d_x, d_a, d_b


def _gradients(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second = a * x, b * x
    share = torch.where(first == second, 0.5, (first > second).to(grad.dtype))
    d_first = share * grad
    d_second = grad - d_first
    d_a, d_b = ((d * x).sum_to_size(gate.shape) for d, gate in ((d_first, a), (d_second, b)))
    return d_first * a + d_second * b, d_a, d_b
