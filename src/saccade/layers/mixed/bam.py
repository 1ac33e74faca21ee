"""BAM, Park et al. 2018."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, BadShape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap


def bam(x: Tensor, channel: nn.Module, spatial: nn.Module, combine: Literal["mul", "add"] = "mul") -> Tensor:
    """Return the gate sigma(C * S), or sigma(C + S), of every channel at every position.

    x (B, C, H, W), channel (B, C) of the means of `x`, spatial (B, 1, H, W) of `x` -> (B, C, H, W).
    """
    channels, places = channel(x.mean((2, 3)))[:, :, None, None], spatial(x)
    return torch.sigmoid(channels * places if combine == "mul" else channels + places)


class _Branch(nn.Module):
    """The layers of one branch, and the tap of its share in the gate."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class BAM(nn.Module):
    """Bottleneck attention module: one gate of a channel branch and a dilated spatial branch together.

        C = W1 ReLU(BN(W0 mean(x) + b0)) + b1
        S = f3(h2(h1(h0(x))))                      h = ReLU(BN(f(.)))
        y = (1 + sigma(C S)) x

    Park, Woo, Lee, Kweon: BAM: Bottleneck Attention Module, BMVC 2018 (equations 1 to 4).
    W0, W1 the layers of `channel`, f0 (1 x 1), f1, f2 (3 x 3, dilated by `dilation`, as many as
    `dilated_convs`) and f3 (1 x 1, to one map) those of `spatial`; r `reduction`; all have biases.

    combine   "mul" is the authors' code, above; "add" is the paper, sigma(C + S)

    x (B, C, H, W) -> the same shape. Sits after stages 1 to 3, where the map is about to be halved.

    Recording gives two maps, at `.channel` and `.spatial`: the mean of the gate over positions and its
    mean over channels. The branches alone say little: where C is negative, a large S closes the gate.

    Deviation: none from the authors' code for square maps; theirs averages over H x H and so needs them,
    this averages over H x W. The paper has a batch norm at the end of each branch and none inside.

    Raises `BadOption` if C < r (the hidden layer would be empty), `BadShape` for any other input, and in
    training for a batch of one: the batch norm behind the global mean has one value per channel then.

    >>> import torch
    >>> BAM(32)(torch.randn(2, 32, 7, 5)).shape
    torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        dilated_convs: int = 2,
        combine: Literal["mul", "add"] = "mul",
    ) -> None:
        super().__init__()
        check_positive("bam", reduction=reduction, dilation=dilation, dilated_convs=dilated_convs)
        check_choice("bam", "combine", combine, ("mul", "add"))
        if channels < reduction:
            raise BadOption(f"bam: channels={channels} must be at least reduction={reduction}")
        self.channels, self.combine = channels, combine
        hidden = channels // reduction
        self.channel = _Branch(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()]
        for _ in range(dilated_convs):
            dilated = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            layers += [dilated, nn.BatchNorm2d(hidden), nn.ReLU()]
        self.spatial = _Branch(*layers, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("bam", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] == 1:
            raise BadShape(
                f"bam: the batch norm behind the global mean cannot train on a batch of 1, {tuple(x.shape)}"
            )
        gate = bam(x, self.channel, self.spatial, self.combine)
        if self.channel.tap.recording:
            self.channel.tap.publish(ChannelMap.of(gate.mean((2, 3)), x))
        if self.spatial.tap.recording:
            self.spatial.tap.publish(SpatialMap(gate.mean(1).detach()))
        return x * (1 + gate)


SPEC = Spec(
    name="bam",
    domain="mixed",
    paper=Paper(
        "BAM: Bottleneck Attention Module",
        "Park, Woo, Lee, Kweon",
        2018,
        "https://arxiv.org/abs/1807.06514",
    ),
    summary="gate channels and positions together, on top of the identity",
    module=BAM,
    function=bam,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"reduction": 4, "dilation": 2, "dilated_convs": 1, "combine": "add"}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [[channel MLP | dilated convs] -> product -> 1 + sigmoid | ] -> multiply -> y",
)
