"""Concurrent spatial and channel squeeze-and-excitation, Roy et al. 2018."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_reduction, check_shape
from saccade.layers.channel.se import SE, se
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap
from saccade.ops.gates import scale
from saccade.ops.larger_product import larger_product


def scse(x: Tensor, channel: Tensor, spatial: Tensor, combine: Literal["max", "add"] = "max") -> Tensor:
    """Return the larger of the two gated copies of x, or their sum.

    Args:
        x: Features, (B, C, ...).
        channel: Weights of the channels, (B, C, 1, ...).
        spatial: Weights of the positions, (B, 1, ...).
        combine: "max" for max(c x, s x), "add" for c x + s x.

    Returns:
        Gated features, (B, C, ...).

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0, -1.0]]])
        >>> scse(x, torch.tensor([[[0.25]]]), torch.tensor([[[0.5, 0.5]]]))
        tensor([[[ 0.5000, -0.2500]]])
    """
    return larger_product(x, channel, spatial) if combine == "max" else scale(x, channel + spatial)


class _Spatial(nn.Module):
    """The projection of the channels to one logit per position, and the tap of its gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x.flatten(2).unsqueeze(2))  # of the dimension of images, for all inputs
        return torch.sigmoid(logits).reshape(x.shape[0], 1, *x.shape[2:])


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze-and-excitation: the larger of two gated copies of the input.

        c = sigma(W2 relu(W1 z))        z_c = mean_p x_cp        s_p = sigma(w . x_p + b)
        y_cp = max(c_c x_cp, s_p x_cp)

    The gate of the channels c is squeeze-and-excitation with the layers W1 and W2 of `channel` (see `SE`),
    the gate of the positions s has the 1 x 1 convolution w, b of `spatial`, p is a position and sigma the
    logistic function. The maximum compares the products, as in the authors' code, not the gates: for a
    negative x_cp, the smaller gate wins.

    Recording gives two maps, at `.channel` and `.spatial`.

    References:
        Roy, Navab, Wachinger: Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
        Networks, MICCAI 2018 (section 2).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r of the channel gate, from 1 to C. The hidden layer has C // r units.
        combine: "max" is the maximum above, as in the authors' code; "add" is the sum of both products, as in
            several libraries.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If C < r, since the hidden layer would be empty, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none. The gated copies are not kept for the backward pass; see
        `saccade.ops.larger_product`. The cost is one pass over x for the means, one for the projection, and
        one for the result.

    Example:
        >>> import torch
        >>> SCSE(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, reduction: int = 2, combine: Literal["max", "add"] = "max") -> None:
        super().__init__()
        check_reduction("scse", channels, reduction=reduction)
        check_choice("scse", "combine", combine, ("max", "add"))
        self.channels, self.combine = channels, combine
        self.channel = SE(channels, reduction)
        self.spatial = _Spatial(channels)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("scse", x, "B C ...", C=self.channels)
        channel, spatial = se(x, self.channel.reduce, self.channel.expand), self.spatial(x)
        if self.channel.tap.recording:
            self.channel.tap.publish(ChannelMap.of(channel, x))
        if self.spatial.tap.recording:
            self.spatial.tap.publish(SpatialMap(spatial[:, 0].detach()))
        return scse(x, channel.reshape(*channel.shape, *[1] * (x.ndim - 2)), spatial, self.combine)


SPEC = Spec(
    name="scse",
    domain="mixed",
    paper=Paper(
        "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
        "Roy, Navab, Wachinger",
        2018,
        "https://arxiv.org/abs/1803.02579",
    ),
    summary="take the larger of the input with gated channels and the input with gated positions",
    module=SCSE,
    function=scse,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"reduction": 4, "combine": "add"}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [[mean -> W1, ReLU -> W2, sigmoid] -> scale channels"
    " | 1x1 conv, sigmoid -> scale positions] -> maximum -> y",
)
