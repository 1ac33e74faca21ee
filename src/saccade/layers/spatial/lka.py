"""Large kernel attention, Guo et al. 2023."""

from __future__ import annotations

import math

from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap


def lka(x: Tensor, local: nn.Module, dilated: nn.Module, mix: nn.Module) -> Tensor:
    """Return the weights mix(dilated(local(x))) of every channel at every position.

    Args:
        x: Features, (B, C, H, W).
        local: Depthwise convolution of near positions.
        dilated: Depthwise convolution of far positions.
        mix: Convolution of the channels of one position.

    Returns:
        Weights, (B, C, H, W).
    """
    weights: Tensor = mix(dilated(local(x)))
    return weights


class LKA(nn.Module):
    """Large kernel attention: weights each value by a large convolution, split into three small ones.

        a = F1(F7(F5(x)))        y = a x

    F5 is the depthwise 5 x 5 convolution `local`, F7 the depthwise 7 x 7 convolution `dilated` with dilation
    3, and F1 the 1 x 1 convolution `mix`; all have biases and zero padding. Together they see 23 x 23
    positions. The weights a of every channel and position have no sigmoid or softmax, so they have either
    sign and no bound.

    Recording gives the mean of a over channels.

    References:
        Guo, Lu, Liu, Cheng, Hu: Visual Attention Network, Computational Visual Media 2023 (equations 1 and
        2).

    Args:
        channels: Number of channels C.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadShape: For any other input shape.

    Note:
        Deviation: none. This is the gate alone; the network of the authors has a 1 x 1 convolution and a GELU
        before it and a 1 x 1 convolution after it. As in that network, weights are initialized from a normal
        distribution with variance 2 / fan_out, where fan_out counts the weights of one channel group, and
        biases with 0. The cost is 74 C + C^2 products per position.

    Example:
        >>> import torch
        >>> LKA(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.dilated = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.tap = Tap()
        for conv in (self.local, self.dilated, self.mix):
            fan_out = math.prod(conv.kernel_size) * channels // conv.groups
            nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("lka", x, "B C H W", C=self.channels)
        weights = lka(x, self.local, self.dilated, self.mix)
        if self.tap.recording:
            self.tap.publish(SpatialMap(weights.detach().mean(1)))
        return weights * x


SPEC = Spec(
    name="lka",
    domain="spatial",
    paper=Paper(
        "Visual Attention Network", "Guo, Lu, Liu, Cheng, Hu", 2023, "https://arxiv.org/abs/2202.09741"
    ),
    summary="weight each value by a decomposed 23 x 23 convolution",
    module=LKA,
    function=lka,
    examples=(Example("B C H W"),),
    maps=(SpatialMap,),
    flow="x -> [depthwise 5x5 -> depthwise 7x7, dilation 3 -> 1x1 conv | ] -> multiply -> y",
)
