"""Simplified channel attention, Chen et al. 2022."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_channels, mean


def sca(x: Tensor, linear: nn.Linear) -> Tensor:
    """Return the channel weights W z + b, where z holds the channel means of x. They can be negative.

    Args:
        x: Features, (B, C, ...).
        linear: Linear layer W, b from C to C.

    Returns:
        Weights, (B, C).
    """
    weights: Tensor = linear(mean(x.flatten(2)))
    return weights


class SCA(nn.Module):
    """Simplified channel attention: scales each channel by one linear layer of all channel means.

        z_c = mean_p x_cp        s = W z + b        y_cp = s_c x_cp

    p is a position, c a channel, W and b are the layer `linear` and s the weights, which no function bounds:
    unlike squeeze-and-excitation, there is no hidden layer and no nonlinearity.

    References:
        Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV 2022 (section 4).

    Args:
        channels: Number of channels C.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadShape: For any other input shape.

    Note:
        Deviation: none for images; sequences and volumes use the same parameters.

    Example:
        >>> import torch
        >>> SCA(64)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(channels, channels)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("sca", x, "B C ...", C=self.channels)
        return gate_channels(x, sca(x, self.linear), self.tap)


SPEC = Spec(
    name="sca",
    domain="channel",
    paper=Paper(
        "Simple Baselines for Image Restoration",
        "Chen, Chu, Zhang, Sun",
        2022,
        "https://arxiv.org/abs/2204.04676",
    ),
    summary="scale each channel by one linear layer of all channel means, without a nonlinearity",
    module=SCA,
    function=sca,
    examples=(Example("B C H W"), Example("B C W"), Example("B C T H W")),
    maps=(ChannelMap,),
    flow="x -> [mean over positions -> W | ] -> scale channels -> y",
)
