"""Triplet attention, Misra et al. 2021."""

from __future__ import annotations

from functools import reduce as fold
from operator import add

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.convolution import MapConv2d
from saccade.ops.gate_sum import scale_by_sum
from saccade.ops.gates import mean_and_maximum


def triplet(x: Tensor, cw: nn.Module, hc: nn.Module, hw: nn.Module | None = None) -> list[Tensor]:
    """Return the weights of the pairs of axes, each sigma(module([max; mean] over the third axis)).

    Args:
        x: Features, (B, C, H, W).
        cw: Module from (B, 2, C, W) to the logits (B, 1, C, W).
        hc: Module from (B, 2, H, C) to the logits (B, 1, H, C).
        hw: Module from (B, 2, H, W) to the logits (B, 1, H, W), or None.

    Returns:
        Weights (B, C, 1, W) and (B, C, H, 1), and (B, 1, H, W) if there is `hw`.
    """
    gates = [
        torch.sigmoid(cw(_pools(x, 2))).transpose(1, 2),
        torch.sigmoid(hc(_pools(x, 3).mT)).transpose(1, 3),
    ]
    return gates if hw is None else [*gates, torch.sigmoid(hw(_pools(x, 1)))]


def _pools(x: Tensor, dim: int) -> Tensor:
    average, maximum = mean_and_maximum(x, dim)
    return torch.stack([maximum, average], dim=1)


class Triplet(nn.Module):
    """Triplet attention: the mean of three gates, one for each pair of the axes channel, height and width.

        g_cw = sigma(BN(f_cw * [max_h x; mean_h x]))        g_hc = sigma(BN(f_hc * [max_w x; mean_w x]))
        g_hw = sigma(BN(f_hw * [max_c x; mean_c x]))        y_chw = (g_cw + g_hc + g_hw) x_chw / 3

    c is a channel, h a row and w a column. The convolutions f (k x k, from two planes to one, no bias) and
    the batch norms (momentum 0.01) belong to `cw`, `hc` and `hw`; * is a convolution with zero padding, sigma
    the logistic function, and y the output. Two of the convolutions run along the channels, so the order of
    the channels matters.

    Recording gives one map, the mean of the gates, averaged over channels.

    References:
        Misra, Nalamada, Arasanipalai, Hou: Rotate to Attend: Convolutional Triplet Attention Module, WACV
        2021 (section 3).

    Args:
        channels: Number of channels C.
        kernel_size: Kernel size k, odd.
        spatial: Whether to use g_hw. Otherwise y = (g_cw + g_hc) x / 2.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If the kernel size is even or below 1.
        BadShape: For any other input shape; in training also if the plane of a gate holds a single value in
            the batch (as for one 1 x 1 map), which has no batch statistics.

    Note:
        Deviation: none from the authors' code. The maps are not rotated: the pools run over the axes in
        place, and the gates are added before x is multiplied. The gradient of a maximum flows to one value;
        under compilation, equal values share it.

    Example:
        >>> import torch
        >>> Triplet(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        check_positive("triplet", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("triplet", "must be odd to keep the map size", kernel_size=kernel_size)
        self.channels = channels
        self.cw = _layers(kernel_size)
        self.hc = _layers(kernel_size)
        self.hw = _layers(kernel_size) if spatial else None
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("triplet", x, "B C H W", C=self.channels)
        batch, channels, height, width = x.shape
        planes = [channels * width, channels * height] + [height * width] * (self.hw is not None)
        if self.training and batch * min(planes) == 1:
            expected = "batch norm needs more than one value in the plane of each gate in training"
            raise bad_shape("triplet", expected, x)
        gates = [gate / len(planes) for gate in triplet(x, self.cw, self.hc, self.hw)]
        if self.tap.recording:
            self.tap.publish(SpatialMap(fold(add, [gate.detach().mean(1) for gate in gates])))
        return scale_by_sum(x, gates)


def _layers(kernel_size: int) -> nn.Sequential:
    conv = MapConv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(1, momentum=0.01))


SPEC = Spec(
    name="triplet",
    domain="mixed",
    paper=Paper(
        "Rotate to Attend: Convolutional Triplet Attention Module",
        "Misra, Nalamada, Arasanipalai, Hou",
        2021,
        "https://arxiv.org/abs/2010.03045",
    ),
    summary="gate each value by the mean of three gates, one per pair of axes",
    module=Triplet,
    function=triplet,
    examples=(Example("B C H W"), Example("B C H W", {"kernel_size": 3, "spatial": False})),
    maps=(SpatialMap,),
    flow="x -> [[max, mean over H -> conv, BN, sigmoid | max, mean over W -> conv, BN, sigmoid"
    " | max, mean over C -> conv, BN, sigmoid] -> mean | ] -> multiply -> y",
)
