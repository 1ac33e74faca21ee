"""Effective squeeze-and-excitation, Lee and Park 2020."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_by_means, mean
from saccade.ops.small_convolution import convolve


def ese(x: Tensor, conv: nn.Module) -> Tensor:
    """Return the channel weights h(W z + b), where z holds the channel means of x and h is the hard sigmoid.

    Args:
        x: Features, (B, C, ...).
        conv: 1 x 1 convolution W, b from C to C channels.

    Returns:
        Weights, (B, C).
    """
    return _weights(mean(x.flatten(2)), conv)


def _weights(means: Tensor, conv: nn.Module) -> Tensor:
    """Return the channel weights from the channel means, (B, C)."""
    logits = convolve(conv, means[:, :, None, None])
    return F.relu6(logits.flatten(1) + 3) / 6  # F.hardsigmoid rounds 1/6 to float32 in its gradient


class ESE(nn.Module):
    """Effective squeeze-and-excitation: gates each channel by one layer of all channel means.

        z_c = mean_p x_cp        s = h(W z + b)        y_cp = s_c x_cp        h(u) = min(max(u + 3, 0), 6) / 6

    p is a position, c a channel, W and b are the 1 x 1 convolution `conv`, h is the hard sigmoid and s the
    gate. Unlike squeeze-and-excitation, there is no hidden layer, so that no channel is lost.

    References:
        Lee, Park: CenterMask: Real-Time Anchor-Free Instance Segmentation, CVPR 2020 (equations 2 and 3).

    Args:
        channels: Number of channels C.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadShape: For any other input shape.

    Note:
        The paper has the logistic function in place of h in its equation; this module has h, as the authors'
        code does. As in that code, W is initialized from a normal distribution with variance 2 / C.

    Example:
        >>> import torch
        >>> ESE(64)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(self.conv.weight)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("ese", x, "B C ...", C=self.channels)
        return gate_by_means(x, partial(_weights, conv=self.conv), self.tap)


SPEC = Spec(
    name="ese",
    domain="channel",
    paper=Paper(
        "CenterMask: Real-Time Anchor-Free Instance Segmentation",
        "Lee, Park",
        2020,
        "https://arxiv.org/abs/1911.06667",
    ),
    summary="gate each channel by one linear layer of all channel means and a hard sigmoid",
    module=ESE,
    function=ese,
    examples=(Example("B C H W"), Example("B C W"), Example("B C T H W")),
    maps=(ChannelMap,),
    flow="x -> [mean over positions -> W, hard sigmoid | ] -> scale channels -> y",
)
