"""External attention, Guo et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap

_EPSILON = 1e-9  # added to the sum over the memory


def external(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the units of a memory, normalized over positions and then over units.

    Both are computed in float32 or higher precision.

    Args:
        logits: Similarities of units and positions, (B, S, N).

    Returns:
        The softmax over the N positions, and its quotient by the sum over the S units, (B, S, N) each.
    """
    softmax = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(2)
    return softmax, softmax / (_EPSILON + softmax.sum(1, keepdim=True))


class External(nn.Module):
    """External attention: describes each position by the units of a memory that all images share.

        s = softmax_j(M_0 (W_1 x_j + b_1))         a_kj = s_kj / (1e-9 + sum_l s_lj)
        y_j = ReLU(x_j + BN(W_2 M_1 a_j))

    j is a position, and k and l are units of the memory. W_1 (`conv1`) and W_2 (in `conv2`) are 1 x 1
    convolutions, M_0 (`linear_0`) holds the keys and M_1 (`linear_1`) the values of the `size` units. The
    softmax runs over positions, and a is normalized over units. M_1 starts as the transpose of M_0, and is a
    parameter of its own. y is the output.

    Recording gives the mean of s over the units, which sums to 1 over positions.

    References:
        Guo, Liu, Mu, Hu: Beyond Self-Attention: External Attention Using Two Linear Layers for Visual Tasks,
        TPAMI 2023 (equations 5 and 6, and the block of the authors' code).

    Args:
        channels: Number of channels C.
        size: Number of units of the memory, at least 1.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If the size is below 1.
        BadShape: For any other input shape; in training also for a single position in the batch, which has no
            batch statistics.

    Note:
        Deviation: none from the authors' code, whose weights start normally distributed with a variance of
        2 / C. M_0 W_1 and W_2 M_1 are multiplied first, so that no product of two maps of C channels is
        computed. The bias b_1 cancels in the softmax over positions.

    Example:
        >>> import torch
        >>> External(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, size: int = 64) -> None:
        super().__init__()
        check_positive("external", size=size)
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.linear_0 = nn.Conv1d(channels, size, 1, bias=False)
        self.linear_1 = nn.Conv1d(size, channels, 1, bias=False)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.tap = Tap()
        for weight in (self.conv1.weight, self.linear_0.weight, self.conv2.get_parameter("0.weight")):
            nn.init.normal_(weight, std=(2 / channels) ** 0.5)
        with torch.no_grad():
            self.linear_1.weight.copy_(self.linear_0.weight.transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("external", x, "B C H W", C=self.channels)
        if self.training and x[:, 0].numel() == 1:
            raise bad_shape("external", "batch norm needs more than one position in training", x)
        keys, bias = self.linear_0.weight.squeeze(2), self.conv1.bias
        weight = (keys @ self.conv1.weight.flatten(1))[:, :, None, None]
        logits = F.conv2d(x, weight, None if bias is None else keys @ bias)
        softmax, attention = external(logits.flatten(2))
        if self.tap.recording:
            self.tap.publish(SpatialMap(softmax.detach().mean(1).unflatten(1, x.shape[2:])))
        values = self.conv2[0](self.linear_1.weight.unsqueeze(0)).squeeze(3)
        y: Tensor = self.conv2[1]((values @ attention.to(values.dtype)).reshape(x.shape))
        return F.threshold(y + x, 0, 0)  # as ReLU, but the next layer may change the output in place


SPEC = Spec(
    name="external",
    domain="pairwise",
    paper=Paper(
        "Beyond Self-Attention: External Attention Using Two Linear Layers for Visual Tasks",
        "Guo, Liu, Mu, Hu",
        2023,
        "https://arxiv.org/abs/2105.02358",
    ),
    summary="describe each position by the units of a memory that all images share",
    module=External,
    function=external,
    examples=(Example("B C H W"), Example("B C H W", {"size": 5})),
    maps=(SpatialMap,),
    flow="x -> [W_1, M_0 -> softmax -> divide by sum -> M_1, W_2, BN | ] -> add, ReLU -> y",
)
