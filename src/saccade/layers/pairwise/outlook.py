"""Outlook attention, Yuan et al. 2022."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap


def outlook(weights: Tensor, value: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """Return the sum over all windows of their weighted values, for each head.

    A window of k x k positions has a k^2 x k^2 matrix of weights. Its k^2 results are added to the map at the
    positions of the window, without a division by the number of windows of a position.

    Args:
        weights: Weights, (B, N, heads, k^2, k^2), of the N windows with centers every `stride` positions.
        value: Values, (B, heads * D, H, W).
        kernel_size: Height and width k of a window, odd.
        stride: Distance of the centers of windows.

    Returns:
        Sums of the weighted values, (B, heads * D, H, W).
    """
    heads = zip(weights.unbind(2), value.chunk(weights.shape[2], 1), strict=True)
    # One head after the other: all at once need several tensors of k^2 maps.
    return torch.cat([_Windows.apply(*head, kernel_size, stride) for head in heads], 1)


class _Windows(torch.autograd.Function):
    """The sum over the windows of one head, for weights (B, N, k^2, k^2) and values (B, D, H, W).

    The values of the windows, k^2 maps, are computed again in the backward pass instead of being kept.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, value: Tensor, kernel_size: int, stride: int) -> Tensor:
        ctx.save_for_backward(weights, value)
        ctx.window = kernel_size, stride
        mixed: Tensor = weights @ _windows(value, *ctx.window)
        return _add_windows(mixed, value, *ctx.window)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, value = ctx.saved_tensors
        d_mixed = _windows(gradients[0], *ctx.window)
        d_weights = d_mixed @ _windows(value, *ctx.window).mT
        return d_weights, _add_windows(weights.mT @ d_mixed, value, *ctx.window), None, None


def _windows(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Cut (B, D, H, W) into windows, (B, N, k^2, D), with zeros around the map."""
    parts = F.unfold(x, kernel_size, padding=kernel_size // 2, stride=stride)
    windows: Tensor = parts.unflatten(1, (-1, kernel_size**2))
    return windows.permute(0, 3, 2, 1)


def _add_windows(parts: Tensor, like: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Add windows, (B, N, k^2, D), to a map of the size of `like`, (B, D, H, W)."""
    size = (like.shape[2], like.shape[3])
    columns = parts.permute(0, 3, 2, 1).flatten(1, 2)
    return F.fold(columns, size, kernel_size, padding=kernel_size // 2, stride=stride)


class Outlook(nn.Module):
    """Outlook attention: each position generates the attention among all positions of its window.

        A_i = softmax((W_a p_i + b_a) / sqrt(C / h))        v = W_v x
        y_j = W_o [sum_i A_i v(window of i)] at j + b_o

    i is the center of a window of k x k positions, and p_i is x_i, or with a stride the mean over the stride
    x stride positions of i. W_a (`attn`) maps it to a k^2 x k^2 matrix of weights for each of h heads; the
    softmax runs over its rows. There are no queries and keys. The results of all windows that contain j are
    added, and [] joins the heads. W_v is `v`, W_o and b_o are `proj`, and y is the output, without a residual
    connection. Padding around the map has values of 0, but also a share of the weights.

    Recording gives the weight that each position receives, summed over all windows and their positions and
    averaged over heads.

    References:
        Yuan, Hou, Jiang, Feng, Yan: VOLO: Vision Outlooker for Visual Recognition, TPAMI 2022 (section 3.1).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        heads: Number of heads h, at least 1.
        kernel_size: Height and width k of a window, odd.
        stride: Distance of the centers of windows, at least 1. The authors' networks use 2.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `heads`, k is even, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code with a padding of k // 2 and no bias of the values, as in their
        networks. Heads are computed one after the other, and values of windows are not kept for the backward
        pass, which saves memory. As in the authors' network, weights are initialized from a truncated normal
        distribution with a standard deviation of 0.02. Dropout is left out.

    Example:
        >>> import torch
        >>> Outlook(32, stride=2)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, heads: int = 8, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        check_positive("outlook", kernel_size=kernel_size, stride=stride)
        check_multiple("outlook", channels, heads=heads)
        if kernel_size % 2 == 0:
            raise bad_option("outlook", "must be odd to have a center", kernel_size=kernel_size)
        self.channels, self.heads, self.kernel_size, self.stride = channels, heads, kernel_size, stride
        self.v = nn.Linear(channels, channels, bias=False)
        self.attn = nn.Linear(channels, heads * kernel_size**4)
        self.proj = nn.Linear(channels, channels)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.tap = Tap()
        for layer in (self.v, self.attn, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("outlook", x, "B C H W", C=self.channels)
        places = self.kernel_size**2
        logits = self.attn(self.pool(x).flatten(2).mT).mul_((self.channels // self.heads) ** -0.5)
        weights = logits.unflatten(2, (self.heads, places, places)).softmax(4)
        if self.tap.recording:
            self.tap.publish(SpatialMap(self._received(weights.detach(), x)))
        value = self.v(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed = outlook(weights.to(value.dtype), value, self.kernel_size, self.stride)
        y: Tensor = self.proj(mixed.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)

    def _received(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the weight that each position receives, (B, H, W)."""
        window = self.kernel_size, self.stride
        has_result = _windows(torch.ones_like(x[:1, :1]), *window)  # 0 for results outside of the map
        received = (weights.mean(2) * has_result.to(weights.dtype)).sum(2)
        return _add_windows(received.unsqueeze(3), x, *window)[:, 0]


SPEC = Spec(
    name="outlook",
    domain="pairwise",
    paper=Paper(
        "VOLO: Vision Outlooker for Visual Recognition",
        "Yuan, Hou, Jiang, Feng, Yan",
        2022,
        "https://arxiv.org/abs/2106.13112",
    ),
    summary="each position generates the attention among all positions of its window",
    module=Outlook,
    function=outlook,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"heads": 4, "stride": 2}),
        Example("B C H W", {"heads": 2, "kernel_size": 1}),
    ),
    maps=(SpatialMap,),
    flow="x -> [pool -> W_a -> softmax | W_v -> windows] -> products -> add windows -> W_o -> y",
)
