"""Efficient channel attention, Wang et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import make_divisible
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_by_means, mean
from saccade.ops.small_convolution import ShortConv1d


def eca(x: Tensor, conv: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the channel weights sigma(conv(z)), where z holds the channel means of x.

    Args:
        x: Features, (B, C, ...).
        conv: Convolution along the channels, (B, 1, C) to (B, 1, C).

    Returns:
        Weights, (B, C).
    """
    return _weights(mean(x.flatten(2)), conv)


def _weights(means: Tensor, conv: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the channel weights from the channel means, (B, C)."""
    return torch.sigmoid(conv(means.unsqueeze(1))).squeeze(1)


class ECA(nn.Module):
    """Efficient channel attention: gates each channel by the means of its neighbors in channel order.

        z_c = mean_p x_cp        s = sigma(w * z)        y_cp = s_c x_cp
        k = |(log2 C + 1) / 2|, rounded down, then up to an odd number

    z holds the means over positions p of each channel c, w the k weights of `conv` (no bias), * is a
    convolution along the channels with zero padding, sigma the logistic function and s the gate. The rule for
    k is that of the paper with gamma = 2 and b = 1.

    With `hidden` units, the channels share an MLP before the convolution: s = sigma(w * relu(a z + b) + c),
    where a, b and w have one row for each unit.

    References:
        Wang, Wu, Zhu, Li, Zuo, Hu: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
        Networks, CVPR 2020 (section 3.2).

    Args:
        channels: Number of channels C.
        kernel_size: Kernel size k, odd. None computes it from C: 3 for 64 channels, 5 for 128 to 1024, 7 for
            2048. The released networks use values chosen by hand: 3, 5, 5 and 7 in the stages of ResNet-50.
        padding: "zeros", or "circular" for a convolution that joins the last channel to the first.
        hidden: Number of hidden units. None leaves out the hidden layer, "auto" is C / 8, rounded to a
            multiple of 8.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If the kernel size is even or below 1, circular padding is wider than C, or another option
            is out of range.
        BadShape: For any other input shape.

    Note:
        Circular padding and hidden units are not in the paper. They are the experiments `CecaModule` and
        `EcaModule(use_mlp=True)` of timm.

    Example:
        >>> import torch
        >>> gate = ECA(64)
        >>> gate(torch.randn(2, 64, 7, 5)).shape, gate.conv.kernel_size
        (torch.Size([2, 64, 7, 5]), (3,))
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        padding: Literal["zeros", "circular"] = "zeros",
        hidden: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        check_choice("eca", "padding", padding, ("zeros", "circular"))
        if kernel_size is None:
            kernel_size = int(abs((math.log2(channels) + 1) / 2))
            kernel_size += 1 - kernel_size % 2
        check_positive("eca", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("eca", "must be odd to keep the number of channels", kernel_size=kernel_size)
        border = kernel_size // 2
        if padding == "circular" and border > channels:
            raise bad_option(
                "eca", f"must be at most {2 * channels + 1} to wrap around", kernel_size=kernel_size
            )
        width = make_divisible(channels / 8) if hidden == "auto" else hidden
        if width is not None:
            check_positive("eca", hidden=width)
        self.channels = channels
        units, bias = (1, False) if width is None else (width, True)
        self.mlp = nn.Identity() if width is None else nn.Sequential(nn.Conv1d(1, units, 1), nn.ReLU())
        self.conv = ShortConv1d(units, 1, kernel_size, padding=border, padding_mode=padding, bias=bias)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("eca", x, "B C ...", C=self.channels)
        return gate_by_means(x, partial(_weights, conv=self._convolve), self.tap)

    def _convolve(self, means: Tensor) -> Tensor:
        convolved: Tensor = self.conv(self.mlp(means))
        return convolved


SPEC = Spec(
    name="eca",
    domain="channel",
    paper=Paper(
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
        "Wang, Wu, Zhu, Li, Zuo, Hu",
        2020,
        "https://arxiv.org/abs/1910.03151",
    ),
    summary="gate each channel by a short convolution of the channel means",
    module=ECA,
    function=eca,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"kernel_size": 5, "padding": "circular"}),
        Example("B C H W", {"hidden": "auto"}),
    ),
    maps=(ChannelMap,),
    flow="x -> [mean over positions -> 1-D conv k -> sigmoid | ] -> scale channels -> y",
)
