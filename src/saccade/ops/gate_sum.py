"""Products with a sum of gates that have different axes, without the sum in memory for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_eager

_PRODUCTS = 1 << 20  # products held at a time while they are summed


def scale_by_sum(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """Return (g_1 + g_2 + ...) * x.

    Two or more gates of different axes, such as rows and columns, sum to a tensor of the size of x. The
    backward pass computes it again, and the products grad * x of all gates once, a few images at a time.

    Args:
        x: Features, (B, ...).
        gates: Weights with the axes of x, each of the same size or 1 except for the first.

    Returns:
        A tensor of the shape of x.

    Example:
        >>> import torch
        >>> rows, columns = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[10.0, 20.0, 30.0]]])
        >>> scale_by_sum(torch.ones(1, 2, 3), [rows, columns])[0].tolist()
        [[11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]
    """
    if not is_eager():
        return x * reduce(add, gates)
    result: Tensor = _ScaleBySum.apply(x, *gates)
    return result


class _ScaleBySum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return reduce(add, gates) * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, *gates) = gradients, ctx.saved_tensors
        d_x = reduce(add, gates) * grad if ctx.needs_input_grad[0] else None
        images = max(1, _PRODUCTS // max(1, x[:1].numel()))
        axes = [[dim for dim in range(1, x.ndim) if gate.shape[dim] == 1] for gate in gates]
        sums: list[list[Tensor]] = [[] for _ in gates]
        for a, b in zip(grad.split(images), x.split(images), strict=True):
            products = a * b
            for parts, reduced in zip(sums, axes, strict=True):
                parts.append(products.sum(reduced, keepdim=True) if reduced else products)
        return d_x, *(torch.cat(parts) for parts in sums)
