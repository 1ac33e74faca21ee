"""The style-based recalibration module, Lee et al. 2019."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.errors import bad_shape, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_channels


def srm(x: Tensor, weight: Tensor, norm: nn.Module, epsilon: float = 1e-5) -> Tensor:
    """Return the channel weights sigma(BN(w_c . [mean_p x_cp, std_p x_cp])).

    Args:
        x: Features, (B, C, ...), with at least 2 positions p.
        weight: Weights w of mean and standard deviation, (C, 2).
        norm: Batch norm of (B, C, 1, 1).
        epsilon: Value added to the variance.

    Returns:
        Weights, (B, C).
    """
    variance, mean = torch.var_mean(x.flatten(2), dim=2)
    style = mean * weight[:, 0] + (variance + epsilon).sqrt() * weight[:, 1]
    return torch.sigmoid(norm(style[:, :, None, None])).flatten(1)


class SRM(nn.Module):
    """Style-based recalibration: gates each channel by its own mean and standard deviation.

        m_c = mean_p x_cp        s_c = sqrt(sum_p (x_cp - m_c)^2 / (N - 1) + epsilon)
        z_c = w_c1 m_c + w_c2 s_c        y_cp = sigma(BN(z)_c) x_cp

    p is one of N positions, c a channel, m and s are its style, w (`weight`) has two weights for each
    channel, BN is the batch norm `norm` and sigma the logistic function. No channel sees another one. w is
    initialized with 0, so that initially every gate is sigma(0) = 1/2.

    References:
        Lee, Kim, Nam: SRM: A Style-Based Recalibration Module for Convolutional Neural Networks, ICCV 2019
        (section 3).

    Args:
        channels: Number of channels C.
        epsilon: Positive value added to the variance.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), with at least 2 positions.
        - Output: same shape as the input.

    Raises:
        BadOption: If epsilon is not a positive number.
        BadShape: For any other input shape; for a single position, which has no standard deviation; in
            training also for a batch of one, whose z has no batch statistics.

    Note:
        Deviation: the variance is unbiased, as in the authors' code; the paper divides by N. The authors'
        code returns NaN for a single position; this module raises an error.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(SRM(32)(x), x / 2)
        True
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        check_positive_number("srm", epsilon=epsilon)
        self.channels, self.epsilon = channels, epsilon
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm2d(channels)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("srm", x, "B C ...", C=self.channels)
        if math.prod(x.shape[2:]) == 1:
            raise bad_shape("srm", "the standard deviation of a channel needs at least 2 positions", x)
        if self.training and x.shape[0] == 1:
            raise bad_shape("srm", "batch norm of the styles needs at least 2 images in training", x)
        return gate_channels(x, srm(x, self.weight, self.norm, self.epsilon), self.tap)


SPEC = Spec(
    name="srm",
    domain="channel",
    paper=Paper(
        "SRM: A Style-Based Recalibration Module for Convolutional Neural Networks",
        "Lee, Kim, Nam",
        2019,
        "https://arxiv.org/abs/1903.10829",
    ),
    summary="gate each channel by its own mean and standard deviation",
    module=SRM,
    function=srm,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"epsilon": 0.1}),
    ),
    maps=(ChannelMap,),
    flow="x -> [[mean over positions | standard deviation] -> w, BN -> sigmoid | ] -> scale channels -> y",
)
