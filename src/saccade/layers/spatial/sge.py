"""Spatial group-wise enhance, Li et al. 2019."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.errors import bad_shape, check_multiple, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, scale
from saccade.ops.precision import no_autocast

_EPSILON = 1e-5  # added to the standard deviation


def sge(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the weights sigma(w n_p + b), where n normalizes the similarities s_p = (mean_q x_q) . x_p.

    Under autocast, the function keeps the dtype of x.

    Args:
        x: Groups of K channels at N >= 2 positions, (B, G, K, N).
        weight: Weights w of the groups, (G,).
        bias: Biases b of the groups, (G,).

    Returns:
        Weights, (B, G, N).
    """
    with no_autocast(x):
        similarity = (mean(x).unsqueeze(2) @ x).squeeze(2)
        centered = similarity - similarity.mean(2, keepdim=True)
        normalized = centered / (centered.std(2, keepdim=True) + _EPSILON)
        weight, bias = (parameter.to(x.dtype).unsqueeze(1) for parameter in (weight, bias))
        return torch.sigmoid(normalized * weight + bias)


class SGE(nn.Module):
    """Spatial group-wise enhance: gates each position of a group by its similarity to the mean of the group.

        s_p = (mean_q x_q) . x_p        n_p = (s_p - mean_p s) / (std_p s + 1e-5)
        y_p = sigma(w n_p + b) x_p

    The C channels form G groups; x_p holds the C / G channels of one group at one of N positions. std divides
    by N - 1, and sigma is the logistic function. w (`weight`) and b (`bias`) have one value per group. They
    are initialized with 0 and 1, so that initially all gates are sigma(1) = 0.73.

    Recording gives the mean of the gate over groups.

    References:
        Li, Hu, Yang: Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
        Networks, arXiv 2019 (equations 1 to 5).

    Args:
        channels: Number of channels C, a multiple of `groups`.
        groups: Number of groups G, at least 1.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), with at least 2 positions.
        - Output: same shape as the input.

    Raises:
        BadOption: If C is not a multiple of `groups`, or `groups` is below 1.
        BadShape: For any other input shape; for a single position, which has no standard deviation.

    Note:
        Deviation: the authors' code returns NaN for a single position; this module raises an error. As in
        that code, the standard deviation is unbiased and epsilon is added to it; in the paper, it is biased
        and epsilon is a part of the root.

    Example:
        >>> import torch
        >>> SGE(32, groups=4)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        check_multiple("sge", channels, groups=groups)
        self.channels, self.groups = channels, groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("sge", x, "B C ...", C=self.channels)
        if math.prod(x.shape[2:]) == 1:
            raise bad_shape("sge", "the standard deviation of the similarities needs at least 2 positions", x)
        groups = x.flatten(2).unflatten(1, (self.groups, -1))
        gate = sge(groups, self.weight.flatten(), self.bias.flatten())
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate.detach().mean(1).reshape(x[:, 0].shape)))
        return scale(groups, gate.unsqueeze(2)).reshape(x.shape)


SPEC = Spec(
    name="sge",
    domain="spatial",
    paper=Paper(
        "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
        "Li, Hu, Yang",
        2019,
        "https://arxiv.org/abs/1905.09646",
    ),
    summary="gate each position of a group of channels by its similarity to the mean of the group",
    module=SGE,
    function=sge,
    examples=(
        Example("B C H W", {"groups": 4}),
        Example("B C W", {"groups": 2}),
        Example("B C T H W", {"groups": 1}),
        Example("B C H W", {"groups": 16}),
    ),
    maps=(SpatialMap,),
    flow="x -> [[mean | ] -> product -> normalize -> w, b, sigmoid | ] -> multiply -> y",
)
