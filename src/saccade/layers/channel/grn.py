"""Global response normalization, Woo et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_channels


def grn(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return the channel weights 1 + gamma_c |x_c| / (mean_c |x_c| + epsilon), with the l2 norms |x_c|.

    Norms are computed in float32 or higher precision.

    Args:
        x: Features, (B, C, ...).
        gamma: Weights of the normalized norms, (C,).
        epsilon: Value added to the mean.

    Returns:
        Weights, (B, C).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    # Unlike the root of a sum of squares, its gradient is 0 for a channel of zeros.
    norm = torch.linalg.vector_norm(x.flatten(2), dim=2, dtype=dtype)
    response = norm / (norm.mean(1, keepdim=True) + epsilon)
    gate: Tensor = 1 + gamma.to(dtype) * response
    return gate.to(x.dtype)


class GRN(nn.Module):
    """Global response normalization: gates each channel by its norm, relative to the mean of all norms.

        n_c = |x_c| / (mean_c |x_c| + epsilon)        |x_c| = sqrt(sum_p x_cp^2)
        y_cp = gamma_c n_c x_cp + beta_c + x_cp

    p is a position and c a channel. `gamma` and `beta` are initialized with 0, so that initially y = x
    exactly. A positive gamma makes channels compete. In ConvNeXt V2, the module is between the two layers of
    the MLP of a block.

    Recording gives the factors 1 + gamma n.

    References:
        Woo, Debnath, Hu, Chen, Liu, Kweon, Xie: ConvNeXt V2: Co-designing and Scaling ConvNets with Masked
        Autoencoders, CVPR 2023 (equations 1 to 3).

    Args:
        channels: Number of channels C.
        epsilon: Positive value added to the mean norm, which avoids a division by zero.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If epsilon is not a positive number.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code, which has the channels last; the parameters have its shape
        (1, 1, 1, C). Equation 2 of the paper divides by the sum of the norms, the code by their mean. Norms
        are computed in float32 or higher precision.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(GRN(32)(x), x)
        True
    """

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        check_positive_number("grn", epsilon=epsilon)
        self.channels, self.epsilon = channels, epsilon
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("grn", x, "B C ...", C=self.channels)
        gate = grn(x, self.gamma.flatten(), self.epsilon)
        return gate_channels(x, gate, self.tap) + self.beta.reshape(-1, *[1] * (x.ndim - 2))


SPEC = Spec(
    name="grn",
    domain="channel",
    paper=Paper(
        "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
        "Woo, Debnath, Hu, Chen, Liu, Kweon, Xie",
        2023,
        "https://arxiv.org/abs/2301.00808",
    ),
    summary="gate each channel by its norm relative to the mean norm, starting at the identity",
    module=GRN,
    function=grn,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"epsilon": 0.1}),
    ),
    maps=(ChannelMap,),
    flow="x -> [norm of channel -> / mean norm -> 1 + gamma | ] -> scale -> + beta -> y",
)
