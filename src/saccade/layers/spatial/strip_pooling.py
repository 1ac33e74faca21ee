"""Strip pooling, Hou et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_shape, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, scale


def strip_pooling(
    x: Tensor, rows: Callable[[Tensor], Tensor], columns: Callable[[Tensor], Tensor], mix: nn.Module
) -> Tensor:
    """Return the weights sigma(mix(relu(rows(mean_w x) + columns(mean_h x)))).

    Args:
        x: Features, (B, C, H, W).
        rows: Function of the means of rows, (B, C, H, 1) to (B, C, H, 1).
        columns: Function of the means of columns, (B, C, 1, W) to (B, C, 1, W).
        mix: Convolution of the channels of one position.

    Returns:
        Weights, (B, C, H, W).
    """
    strips = rows(mean(x).unsqueeze(3)) + columns(mean(x.mT).unsqueeze(2))
    return torch.sigmoid(mix(F.relu(strips)))


class StripPooling(nn.Module):
    """Strip pooling: gates each value by the context of its row and of its column.

        h = BN(F3 * mean_w x)        v = BN(F3 * mean_h x)
        y = sigma(F1(relu(h + v))) x

    mean_w averages each row and mean_h each column. Each strip has a convolution F3 of 3 neighbors and all
    channels, without bias, and a batch norm: `rows` and `columns`. F1 is the 1 x 1 convolution `mix` with
    bias, * a convolution with zero padding, and sigma the logistic function. h + v has a value for each
    position, the sum of the values of its row and of its column.

    Recording gives the mean of the gate over channels.

    References:
        Hou, Zhang, Cheng, Feng: Strip Pooling: Rethinking Spatial Pooling for Scene Parsing, CVPR 2020
        (section 3.1).

    Args:
        channels: Number of channels C.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadShape: For any other input shape; in training also for a batch of one with a single row or column,
            whose strip has no batch statistics.

    Note:
        Deviation: none from the authors' code, in which this block gates the features of a residual block
        before its last convolution. The residual head of the same paper, the mixed pooling module, is another
        one. As in that code, convolutions are initialized from a normal distribution with variance 2 / n,
        where n is the kernel area times C.

    Example:
        >>> import torch
        >>> StripPooling(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.rows = _strip(channels, (3, 1))
        self.columns = _strip(channels, (1, 3))
        self.mix = _initialized(nn.Conv2d(channels, channels, 1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("strip_pooling", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] * min(x.shape[2:]) == 1:
            expected = "batch norm needs more than one row and more than one column in training"
            raise bad_shape("strip_pooling", expected, x)
        gate = strip_pooling(x, self.rows, self.columns, self.mix)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate.detach().mean(1)))
        return scale(x, gate)


def _strip(channels: int, kernel: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(channels, channels, kernel, padding=padding, bias=False)
    return nn.Sequential(_initialized(conv), nn.BatchNorm2d(channels))


def _initialized(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (math.prod(conv.kernel_size) * conv.out_channels)))
    return conv


SPEC = Spec(
    name="strip_pooling",
    domain="spatial",
    paper=Paper(
        "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing",
        "Hou, Zhang, Cheng, Feng",
        2020,
        "https://arxiv.org/abs/2003.13328",
    ),
    summary="gate each value by the context of its row and of its column",
    module=StripPooling,
    function=strip_pooling,
    examples=(Example("B C H W"),),
    maps=(SpatialMap,),
    flow="x -> [[row means -> conv, BN | column means -> conv, BN] -> sum, ReLU -> F1, sigmoid | ]"
    " -> scale -> y",
)
