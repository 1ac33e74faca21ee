"""Efficient multi-scale attention, Ouyang et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_multiple, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, scale


def ema(x: Tensor, norm: nn.GroupNorm, conv1x1: nn.Conv2d, conv3x3: nn.Conv2d) -> Tensor:
    """Return the weight sigma(a . v + a' . u) of every position of a group of channels, see `EMA`.

    The result of the 3 x 3 convolution v is not built: a multiplies its kernels, which leaves one output
    channel, and its mean over positions follows from sums of x.

    Args:
        x: Groups of K channels, (N, K, H, W).
        norm: Normalization with one channel per group.
        conv1x1: 1 x 1 convolution from K to K channels.
        conv3x3: 3 x 3 convolution from K to K channels with a padding of 1.

    Returns:
        Weights, (N, 1, H, W).
    """
    means = torch.cat((mean(x), mean(x.mT)), 2)  # of rows, then of columns
    lines = torch.sigmoid(conv1x1(means.unsqueeze(-1)).squeeze(-1))
    of_rows, of_columns = lines.split(x.shape[2:], dim=2)
    gated = x * of_rows.unsqueeze(3) * of_columns.unsqueeze(2)
    # F.group_norm would refuse a single position.
    u = torch.group_norm(gated, norm.num_groups, norm.weight, norm.bias, norm.eps)
    weight, bias = conv3x3.weight, conv3x3.bias
    windows = torch.einsum("hy,wx->hwyx", *(_windows(length, x) for length in x.shape[2:])).flatten(0, 1)
    v_mean = (x.flatten(2) @ windows.flatten(1)).flatten(1) @ weight.flatten(1).mT
    if bias is not None:
        v_mean = v_mean + bias
    # The mean of a normalized channel is the bias of the norm.
    a, a_prime = norm.bias.softmax(0), v_mean.softmax(1)
    logits = _one_output(x, torch.einsum("o,oiyx->iyx", a, weight), None if bias is None else a @ bias)
    return torch.sigmoid(logits + torch.einsum("nk,nkhw->nhw", a_prime, u).unsqueeze(1))


def _windows(length: int, like: Tensor) -> Tensor:
    """Return weights (length, 3) of means over the positions that each of three taps reads, of all positions.

    The first tap does not read the last position, and the last tap not the first one.
    """
    windows = torch.full((length, 3), 1 / length, dtype=like.dtype, device=like.device)
    windows[-1, 0] = windows[0, 2] = 0
    return windows


def _one_output(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution with the kernel (K, 3, 3), as one product and a sum of nine shifted maps."""
    taps = kernel.flip(1, 2).flatten(1).mT.expand(x.shape[0], -1, -1)
    shifted = torch.bmm(taps, x.flatten(2))  # matmul would copy x
    result = F.fold(shifted, x.shape[2:], 3, padding=1)
    return result if bias is None else result + bias


class EMA(nn.Module):
    """Efficient multi-scale attention: gates the positions of each group of channels by two branches.

        r, s = sigma(W1 mean_w x), sigma(W1 mean_h x)        u = GN(x r s)        v = W3 * x
        a = softmax_k(mean_p u_k)        a' = softmax_k(mean_p v_k)
        y = sigma(sum_k a_k v_kp + a'_k u_kp) x

    The C channels form G groups of K = C / G channels k, which share all parameters. W1 is the 1 x 1
    convolution `conv1x1` of the means of rows and columns, W3 the 3 x 3 convolution `conv3x3` of x itself,
    both with biases; GN is the group norm `norm`, with one channel per group; p is a position (h, w) and
    sigma the logistic function. Both softmaxes run over the channels of a group. Each branch is weighted by
    the other.

    Recording gives the mean of the gate over groups.

    References:
        Ouyang, He, Zhang, Luo, Guo, Zhan, Huang: Efficient Multi-Scale Attention Module with Cross-Spatial
        Learning, ICASSP 2023 (section 2).

    Args:
        channels: Number of channels C, a multiple of `groups`.
        groups: Number of groups G, at least 1; `factor` in the authors' code.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `groups`, or `groups` is below 1.
        BadShape: For any other input shape.

    Note:
        The result is that of the authors' code. Because GN has one channel per group, mean_p u_k is its bias,
        so that a is the same for all images. The 3 x 3 convolution therefore needs one output channel in
        place of K: the cost is 9 K products per position and group in place of 9 K^2.

    Example:
        >>> import torch
        >>> EMA(64, groups=8)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        check_multiple("ema", channels, groups=groups)
        self.channels, self.groups = channels, groups
        width = channels // groups
        self.norm = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("ema", x, "B C H W", C=self.channels)
        groups = x.reshape(-1, self.channels // self.groups, *x.shape[2:])
        gate = ema(groups, self.norm, self.conv1x1, self.conv3x3)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate.detach().unflatten(0, (-1, self.groups)).mean((1, 2))))
        return scale(groups, gate).reshape(x.shape)


SPEC = Spec(
    name="ema",
    domain="mixed",
    paper=Paper(
        "Efficient Multi-Scale Attention Module with Cross-Spatial Learning",
        "Ouyang, He, Zhang, Luo, Guo, Zhan, Huang",
        2023,
        "https://arxiv.org/abs/2305.13563",
    ),
    summary="gate the positions of each group by a branch of row and column means and a 3 x 3 convolution",
    module=EMA,
    function=ema,
    examples=(Example("B C H W"), Example("B C H W", {"groups": 4})),
    maps=(SpatialMap,),
    flow="x -> [[gates of rows, columns | 3x3 conv] -> cross weights -> sigmoid | ] -> multiply -> y",
)
