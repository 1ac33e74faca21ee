"""The statistics between two gates, in a form that Inductor compiles to few passes over the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def channel_statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the maximum over the channels of weights * x.

    Args:
        x: Features, (B, C, ...).
        weights: Weights of the channels, (B, C, 1, ...).

    Returns:
        Mean and maximum, (B, ...) each. Equal values share the gradient of the maximum, as in `torch.amax`.

    Example:
        >>> import torch
        >>> channel_statistics(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[2.0], [1.0]]]))
        (tensor([[2.5000]]), tensor([[3.]]))
    """
    mean, maximum = _ChannelStatistics.apply(x, weights)
    return mean, maximum


class _ChannelStatistics(torch.autograd.Function):
    """A gradient of the size of x that is used twice would be written and read again.

    The gradients of x and of the weights therefore share no such tensor, and each is computed in its pass.
    """

    @staticmethod
    def forward(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        scaled = x * weights
        return scaled.mean(1), scaled.amax(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weights, maximum = ctx.saved_tensors
        is_largest = x * weights == maximum.unsqueeze(1)
        others = (gradients[0] / x.shape[1]).unsqueeze(1)
        largest = others + gradients[1].unsqueeze(1) / is_largest.sum(1, keepdim=True)
        d_x = torch.where(is_largest, largest * weights, others * weights)
        d_weights = torch.where(is_largest, largest, others) * x
        return d_x, d_weights.sum([*range(2, x.ndim)], keepdim=True)
