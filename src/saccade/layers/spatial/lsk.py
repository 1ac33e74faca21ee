"""Large selective kernels, Li et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean_and_maximum


def lsk(small: Tensor, large: Tensor, squeeze: nn.Conv2d) -> Tensor:
    """Return the features of two kernels, each weighted at each position by sigma(F([mean_c u, max_c u])).

    u holds the channels of both.

    Args:
        small: Features of the small kernel, (B, C', H, W).
        large: Features of the large kernel, (B, C', H, W).
        squeeze: Convolution F from 2 channels to 2.

    Returns:
        The weighted sum, (B, C', H, W).
    """
    pooled = torch.stack(mean_and_maximum(torch.cat([small, large], 1), 1), 1)
    of_small, of_large = torch.sigmoid(squeeze(pooled)).split(1, 1)
    y: Tensor = small * of_small + large * of_large
    return y


class LSK(nn.Module):
    """Large selective kernel: a gate from a small and a large depthwise kernel, chosen at each position.

        u_1 = W_1 D_5 x        u_2 = W_2 D_7 D_5 x        m = sigma(F([mean_c u, max_c u]))
        y = x W_o (m_1 u_1 + m_2 u_2)

    D_5 (`conv0`) is a depthwise 5 x 5 convolution, and D_7 (`conv_spatial`) one of 7 x 7 with dilation 3:
    together they see 23 x 23 positions. W_1 (`conv1`) and W_2 (`conv2`) are 1 x 1 convolutions to C / 2
    channels, W_o (`conv`) one back to C. u are the channels of u_1 and u_2, F (`conv_squeeze`) is a 7 x 7
    convolution from 2 channels to 2. All have biases. The gate is not limited to a range.

    Recording gives the mean of the gate over channels.

    References:
        Li, Hou, Zheng, Cheng, Yang, Li: Large Selective Kernel Network for Remote Sensing Object Detection,
        ICCV 2023 (equations 1 to 8).

    Args:
        channels: Number of channels C, at least 2.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C < 2, since u_1 and u_2 would be empty.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' `LSKblock`, whose parameters have the same names.

    Example:
        >>> import torch
        >>> LSK(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise bad_option("lsk", "must be at least 2", channels=channels)
        half = channels // 2
        self.channels = channels
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, groups=channels, dilation=3)
        self.conv1, self.conv2 = nn.Conv2d(channels, half, 1), nn.Conv2d(channels, half, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(half, channels, 1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("lsk", x, "B C H W", C=self.channels)
        near = self.conv0(x)
        gate: Tensor = self.conv(
            lsk(self.conv1(near), self.conv2(self.conv_spatial(near)), self.conv_squeeze)
        )
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate.mean(1).detach()))
        return x * gate


SPEC = Spec(
    name="lsk",
    domain="spatial",
    paper=Paper(
        "Large Selective Kernel Network for Remote Sensing Object Detection",
        "Li, Hou, Zheng, Cheng, Yang, Li",
        2023,
        "https://arxiv.org/abs/2303.09030",
    ),
    summary="gate by a small and a large depthwise kernel, chosen at each position",
    module=LSK,
    function=lsk,
    examples=(Example("B C H W"),),
    maps=(SpatialMap,),
    flow="x -> [D_5 -> [W_1 | D_7, W_2] -> choose by mean and max -> W_o | ] -> multiply -> y",
)
