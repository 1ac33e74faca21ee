"""Strip pooling, Hou et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, scale


def strip_pooling(
    x: Tensor,
    rows: Callable[[Tensor], Tensor],
    columns: Callable[[Tensor], Tensor],
    mix: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the weights sigma(mix(rows(mean_w x) + columns(mean_h x))).

    Args:
        x: Features, (B, C, H, W).
        rows: Function of the means of rows, (B, C, H, 1) to (B, C, H, 1).
        columns: Function of the means of columns, (B, C, 1, W) to (B, C, 1, W).
        mix: Function of the sums, (B, C, H, W) to (B, C, H, W).

    Returns:
        Weights, (B, C, H, W).
    """
    strips = rows(mean(x).unsqueeze(3)) + columns(mean(x.mT).unsqueeze(2))
    return torch.sigmoid(mix(strips))


class StripPooling(nn.Module):
    """Strip pooling: gates each value by the context of its row and of its column.

        h = BN(Fk * mean_w x)        v = BN(Fk * mean_h x)
        y = sigma(F1(relu(h + v))) x

    mean_w averages each row and mean_h each column. Each strip has a convolution Fk of k neighbors and all
    channels, without bias, and a batch norm: `rows` and `columns`. F1 is the 1 x 1 convolution `mix` with
    bias, * a convolution with zero padding, and sigma the logistic function. h + v has a value for each
    position, the sum of the values of its row and of its column.

    With `variant="timm"`, each channel has a convolution of its own, there is no batch norm, and the gate is
    sigma(h + v).

    Recording gives the mean of the gate over channels.

    References:
        Hou, Zhang, Cheng, Feng: Strip Pooling: Rethinking Spatial Pooling for Scene Parsing, CVPR 2020
        (section 3.1).

    Args:
        channels: Number of channels C.
        kernel_size: Kernel size k of the strips, odd.
        variant: "paper" or "timm", which is its `StripAttn`.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If the kernel size is even, or an option is out of range.
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

    def __init__(
        self, channels: int, kernel_size: int = 3, variant: Literal["paper", "timm"] = "paper"
    ) -> None:
        super().__init__()
        check_positive("strip_pooling", kernel_size=kernel_size)
        check_choice("strip_pooling", "variant", variant, ("paper", "timm"))
        if kernel_size % 2 == 0:
            raise bad_option("strip_pooling", "must be odd to keep the map size", kernel_size=kernel_size)
        self.channels, self.has_norm = channels, variant == "paper"
        self.rows = _strip(channels, (kernel_size, 1), self.has_norm)
        self.columns = _strip(channels, (1, kernel_size), self.has_norm)
        self.mix = _initialized(nn.Conv2d(channels, channels, 1)) if self.has_norm else None
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("strip_pooling", x, "B C H W", C=self.channels)
        if self.training and self.has_norm and x.shape[0] * min(x.shape[2:]) == 1:
            expected = "batch norm needs more than one row and more than one column in training"
            raise bad_shape("strip_pooling", expected, x)
        gate = strip_pooling(x, self.rows, self.columns, self._mix)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate.detach().mean(1)))
        return scale(x, gate)

    def _mix(self, strips: Tensor) -> Tensor:
        return strips if self.mix is None else self.mix(F.relu(strips))


def _strip(channels: int, kernel: tuple[int, int], has_norm: bool) -> nn.Sequential:
    padding, groups = (kernel[0] // 2, kernel[1] // 2), 1 if has_norm else channels
    conv = nn.Conv2d(channels, channels, kernel, padding=padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(channels) if has_norm else nn.Identity()
    return nn.Sequential(_initialized(conv), norm)


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
    examples=(Example("B C H W"), Example("B C H W", {"kernel_size": 5, "variant": "timm"})),
    maps=(SpatialMap,),
    flow="x -> [[row means -> conv, BN | column means -> conv, BN] -> sum, ReLU -> F1, sigmoid | ]"
    " -> scale -> y",
)
