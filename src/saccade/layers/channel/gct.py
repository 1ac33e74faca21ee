"""Gated channel transformation, Yang et al. 2020."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_channels
from saccade.ops.sum_of_squares import sum_of_squares


def gct(
    x: Tensor,
    alpha: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mode: Literal["l2", "l1"] = "l2",
    epsilon: float = 1e-5,
    after_relu: bool = False,
) -> Tensor:
    """Return the channel weights 1 + tanh(gamma n(e) + beta) of the embedding e = alpha |x_c|.

    Norms are computed in float32 or higher precision: the square of a norm exceeds the range of half
    precision.

    Args:
        x: Features, (B, C, ...).
        alpha: Weights of the embedding, (C,).
        gamma: Weights of the gate, (C,).
        beta: Biases of the gate, (C,).
        mode: Norm of a channel, and normalization of the embedding, "l2" or "l1".
        epsilon: Value added inside the roots, or to the mean of "l1".
        after_relu: Whether x is not negative, so that "l1" is a plain sum.

    Returns:
        Weights, (B, C).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    places = x.flatten(2)
    alpha, gamma, beta = (parameter.to(dtype) for parameter in (alpha, gamma, beta))
    if mode == "l2":
        embedding = alpha * (sum_of_squares(places) + epsilon).sqrt()
        total = (embedding.square().mean(1, keepdim=True) + epsilon).sqrt()
    else:
        norm = places.sum(2, dtype=dtype) if after_relu else places.abs().sum(2, dtype=dtype)
        embedding = alpha * norm
        total = embedding.abs().mean(1, keepdim=True) + epsilon
    return (1 + torch.tanh(embedding * (gamma / total) + beta)).to(x.dtype)


class GCT(nn.Module):
    """Gated channel transformation: gates each channel by its norm, relative to the norms of all channels.

        e_c = alpha_c sqrt(sum_p x_cp^2 + epsilon)        n_c = e_c / sqrt(mean_c e_c^2 + epsilon)        (l2)
        e_c = alpha_c sum_p |x_cp|                        n_c = e_c / (mean_c |e_c| + epsilon)            (l1)
        y_cp = (1 + tanh(gamma_c n_c + beta_c)) x_cp

    p is a position, c a channel, e the embedding and n its normalization over channels. `alpha` starts at 1,
    `gamma` and `beta` at 0, so that initially y = x exactly. A positive gamma makes channels compete, a
    negative one makes them cooperate. The paper places the module before each convolution.

    References:
        Yang, Zhu, Wu, Yang: Gated Channel Transformation for Visual Recognition, CVPR 2020 (equations 2 to
        5).

    Args:
        channels: Number of channels C.
        mode: Norm: "l2" or "l1", as above.
        epsilon: Positive value that avoids a division by zero and an infinite slope at zero.
        after_relu: Whether the input is not negative, as after a ReLU. "l1" then omits the absolute value;
            "l2" is unaffected.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If an option is out of range.
        BadShape: For any other input shape.

    Note:
        The formulas are those of the authors' code. The normalization of the paper has a factor sqrt(C),
        which is the same, and no second epsilon for l1. The gate is computed in float32 or higher precision.
        The cost is one pass over x for the norms and one for the product; squares are held for a few images
        at a time.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(GCT(32)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        mode: Literal["l2", "l1"] = "l2",
        epsilon: float = 1e-5,
        after_relu: bool = False,
    ) -> None:
        super().__init__()
        check_choice("gct", "mode", mode, ("l2", "l1"))
        check_positive_number("gct", epsilon=epsilon)
        self.channels, self.mode, self.epsilon, self.after_relu = channels, mode, epsilon, after_relu
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("gct", x, "B C ...", C=self.channels)
        alpha, gamma, beta = (parameter.flatten() for parameter in (self.alpha, self.gamma, self.beta))
        gate = gct(x, alpha, gamma, beta, self.mode, self.epsilon, self.after_relu)
        return gate_channels(x, gate, self.tap)


SPEC = Spec(
    name="gct",
    domain="channel",
    paper=Paper(
        "Gated Channel Transformation for Visual Recognition",
        "Yang, Zhu, Wu, Yang",
        2020,
        "https://arxiv.org/abs/1909.11519",
    ),
    summary="gate each channel by its norm relative to all channels, starting at the identity",
    module=GCT,
    function=gct,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"mode": "l1"}),
        Example("B C H W", {"mode": "l1", "after_relu": True, "epsilon": 0.1}),
    ),
    maps=(ChannelMap,),
    flow="x -> [norm of channel -> alpha, 1 / rms -> 1 + tanh | ] -> scale channels -> y",
)
