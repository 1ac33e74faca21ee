"""The mean of all positions, weighted by the softmax of a linear map, with a fused backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_eager
from saccade.ops.precision import no_autocast


def softmax_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return c = sum_p a_p x_p and the weights a = softmax_p(w x_p + b).

    The gradient of x has one part from the sum and one from the logits l, an outer product each. They are
    computed together, as a product of rank 2, so that one tensor of the size of x is allocated, not three:

        dL/dl_p = a_p (dc . x_p - sum_q a_q dc . x_q)        dL/dx_p = a_p dc + dL/dl_p w

    Under autocast, the function keeps the dtype of x: a cast would cost more than the products.

    Args:
        x: Features, (B, C, N).
        weight: Weights w of the channels, (C,).
        bias: Bias b, a scalar. It cancels, but has a gradient of 0.

    Returns:
        Weighted means, (B, C), and weights, (B, N).

    Example:
        >>> import torch
        >>> x, w, b = torch.randn(2, 3, 5), torch.randn(3), torch.zeros(())
        >>> means, weights = softmax_pool(x, w, b)
        >>> torch.allclose(means, torch.einsum("bcn,bn->bc", x, weights), atol=1e-6)
        True
    """
    with no_autocast(x):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        if not (is_eager() and torch.is_grad_enabled()):
            return _SoftmaxPool.forward(x, weight, bias)
        means, weights = _SoftmaxPool.apply(x, weight, bias)
    return means, weights


class _SoftmaxPool(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        # On CPUs, w @ x copies x if it needs no gradient, and x @ a takes six times as long as a @ x^T.
        logits = weight.expand(x.shape[0], 1, -1).bmm(x) + bias
        weights = logits.softmax(-1)
        return weights.bmm(x.mT).squeeze(1), weights.squeeze(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:2], output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_means, d_weights), (x, weight, weights) = gradients, ctx.saved_tensors
        d_weights = d_weights + d_means.unsqueeze(1).bmm(x).squeeze(1)
        d_logits = weights * (d_weights - (weights * d_weights).sum(1, keepdim=True))
        left = torch.stack([d_means, weight.expand_as(d_means)], 2)
        d_x = left.bmm(torch.stack([weights, d_logits], 1)) if ctx.needs_input_grad[0] else None
        d_weight = d_logits.unsqueeze(1).bmm(x.mT).sum((0, 1))
        return d_x, d_weight, d_logits.sum()
