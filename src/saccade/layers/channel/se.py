"""Squeeze-and-excitation, Hu et al. 2018."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import hidden_width
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_by_means, mean


def se(x: Tensor, reduce: nn.Linear, expand: nn.Linear) -> Tensor:
    """Return the channel weights s = sigma(W2 relu(W1 z)), where z holds the channel means of x.

    Args:
        x: Features, (B, C, ...).
        reduce: Linear layer W1 from C to C // r.
        expand: Linear layer W2 from C // r to C.

    Returns:
        Weights, (B, C).
    """
    return _excite(mean(x.flatten(2)), reduce, expand)


def _excite(squeezed: Tensor, reduce: nn.Linear, expand: nn.Linear) -> Tensor:
    """Return the channel weights from the channel means, (B, C)."""
    return torch.sigmoid(expand(F.relu(reduce(squeezed))))


class SE(nn.Module):
    """Squeeze-and-excitation: scales each channel by a gate computed from all channel means.

        z_c = mean_p x_cp        s = sigma(W2 relu(W1 z))        y_cp = s_c x_cp

    z is the squeezed descriptor, p a position, c a channel, W1 is `reduce`, W2 is `expand`, sigma the
    logistic function and s the gate.

    References:
        Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018 (equations 2 to 4).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r, from 1 to C. The hidden layer has C // r units.
        bias: Whether both layers have biases. False gives the form of several re-implementations.
        hidden: Width of the hidden layer in place of C // r.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If C < r, since the hidden layer would be empty.
        BadShape: For any other input shape.

    Example:
        >>> import torch
        >>> SE(64, reduction=16)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    def __init__(
        self, channels: int, reduction: int = 16, bias: bool = True, hidden: int | None = None
    ) -> None:
        super().__init__()
        width = hidden_width("se", channels, reduction, hidden)
        self.channels = channels
        self.reduce = nn.Linear(channels, width, bias=bias)
        self.expand = nn.Linear(width, channels, bias=bias)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("se", x, "B C ...", C=self.channels)
        return gate_by_means(x, partial(_excite, reduce=self.reduce, expand=self.expand), self.tap)


SPEC = Spec(
    name="se",
    domain="channel",
    paper=Paper("Squeeze-and-Excitation Networks", "Hu, Shen, Sun", 2018, "https://arxiv.org/abs/1709.01507"),
    summary="gate each channel by an MLP of all channel means",
    module=SE,
    function=se,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"hidden": 6, "bias": False}),
    ),
    maps=(ChannelMap,),
    flow="x -> [mean over positions -> W1, ReLU -> W2, sigmoid | ] -> scale channels -> y",
)
