"""BAM, Park et al. 2018."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import bad_shape, check_choice, check_positive, check_reduction, check_shape
from saccade.layers.dims import AXES, CONV, NORM, Dims, check_dims
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap
from saccade.ops.gates import mean


def bam(x: Tensor, channel: nn.Module, spatial: nn.Module, combine: Literal["mul", "add"] = "mul") -> Tensor:
    """Return the gate sigma(C * S), or sigma(C + S), of every channel at every position.

    Args:
        x: Features, (B, C, ...).
        channel: Module from the channel means of x, (B, C), to the logits C, (B, C).
        spatial: Module from x to the logits S, (B, 1, ...).
        combine: "mul" for the product, "add" for the sum.

    Returns:
        Weights, same shape as x.
    """
    of_channels, spatial_logits = channel(mean(x.flatten(2))), spatial(x)
    channel_logits = of_channels.reshape(*of_channels.shape, *[1] * (x.ndim - 2))
    product = combine == "mul"
    return torch.sigmoid(channel_logits * spatial_logits if product else channel_logits + spatial_logits)


class _Branch(nn.Module):
    """The layers of one branch, and the tap of its part of the gate."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class BAM(nn.Module):
    """Bottleneck attention module: one gate from a channel branch and a dilated spatial branch.

        C = W1 ReLU(BN(W0 mean(x) + b0)) + b1
        S = f3(h2(h1(h0(x))))                      h = ReLU(BN(f(.)))
        y = (1 + sigma(C S)) x

    C is the output of the channel branch with the layers W0, b0, W1 and b1 of `channel`; S is the output of
    the spatial branch with the convolutions f0 (1 x 1), f1 and f2 (3 x 3, dilated) and f3 (1 x 1, to one
    channel) of `spatial`; mean is taken over positions, and sigma is the logistic function. All layers have
    biases. The paper places the module after stages 1 to 3 of a network, where the map is about to be halved.

    Recording gives two maps, at `.channel` and `.spatial`: the mean of the gate over positions and over
    channels. A branch alone is not informative: where C is negative, a large S closes the gate.

    References:
        Park, Woo, Lee, Kweon: BAM: Bottleneck Attention Module, BMVC 2018 (equations 1 to 4).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r of both branches, from 1 to C.
        dilation: Dilation of the 3 x 3 convolutions, at least 1.
        dilated_convs: Number of dilated convolutions, at least 1.
        combine: "mul" is the gate above, as in the authors' code; "add" is sigma(C + S), as in the paper.
        dims: Number of spatial axes of the input: 1, 2 or 3.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If C < r, since the hidden layer would be empty, or an option is out of range.
        BadShape: For any other input shape; in training also for a batch of one, since the batch norm after
            the global mean then has a single value per channel.

    Note:
        The module equals the authors' code for square maps. That code averages over H x H and needs square
        maps; this module averages over H x W. The paper has a batch norm at the end of each branch and none
        inside, and images, `dims=2`; in a volume, the dilated convolutions are 3 x 3 x 3.

    Example:
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
        dims: Dims = 2,
    ) -> None:
        super().__init__()
        check_reduction("bam", channels, reduction=reduction)
        check_positive("bam", dilation=dilation, dilated_convs=dilated_convs)
        check_choice("bam", "combine", combine, ("mul", "add"))
        check_dims("bam", dims)
        conv, norm = CONV[dims], NORM[dims]
        self.channels, self.combine, self.dims = channels, combine, dims
        hidden = channels // reduction
        self.channel = _Branch(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        layers: list[nn.Module] = [conv(channels, hidden, 1), norm(hidden), nn.ReLU()]
        for _ in range(dilated_convs):
            dilated = conv(hidden, hidden, 3, padding=dilation, dilation=dilation)
            layers += [dilated, norm(hidden), nn.ReLU()]
        self.spatial = _Branch(*layers, conv(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("bam", x, AXES[self.dims], C=self.channels)
        if self.training and x.shape[0] == 1:
            raise bad_shape("bam", "batch norm of the channel means needs at least 2 images in training", x)
        gate = bam(x, self.channel, self.spatial, self.combine)
        if self.channel.tap.recording:
            self.channel.tap.publish(ChannelMap.of(gate.flatten(2).mean(2), x))
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
        Example("B C W", {"dims": 1}),
        Example("B C T H W", {"dims": 3}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [[channel MLP | dilated convs] -> product -> 1 + sigmoid | ] -> multiply -> y",
)
