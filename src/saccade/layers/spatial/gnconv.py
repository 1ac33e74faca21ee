"""Recursive gated convolution, Rao et al. 2022."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_positive, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap


def gnconv(first: Tensor, gates: Iterable[Tensor], mixes: Iterable[nn.Module]) -> Tensor:
    """Return z_n of the recursion z_1 = g_1 p, z_k+1 = g_k+1 mix_k(z_k).

    Args:
        first: The features p that enter the recursion, (B, C_1, H, W).
        gates: Gates g_1 to g_n, (B, C_k, H, W).
        mixes: Convolutions 1 to n - 1 of the channels of one position, from C_k to C_k+1 channels.

    Returns:
        Features, (B, C_n, H, W).
    """
    opening, *later = gates
    z = first * opening
    for mix, gate in zip(mixes, later, strict=True):
        z = mix(z) * gate
    return z


class GnConv(nn.Module):
    """Recursive gated convolution: multiplies features by n gates, one after the other, with large kernels.

        [p; q] = W_in x        [g_1; ...; g_n] = s (F7 * q)        C_k = C / 2^(n - k)
        z_1 = g_1 p            z_k+1 = g_k+1 W_k z_k               y = W_out z_n

    W_in (`project`), W_k (`mixes`) and W_out (`out`) are 1 x 1 convolutions, and F7 is the depthwise 7 x 7
    convolution `depthwise`, all with biases and with zero padding. p has C_1 channels, and g_k and z_k have
    C_k: coarse interactions have few channels. Gates have no sigmoid or softmax. A value of y depends on
    products of n + 1 values of x: the order of the interactions, as two for self-attention.

    Recording gives the mean of the last gate g_n over its C channels.

    References:
        Rao, Zhao, Tang, Zhou, Lim, Lu: HorNet: Efficient High-Order Spatial Interactions with Recursive
        Gated Convolutions, NeurIPS 2022 (equations 3 to 5).

    Args:
        channels: Number of channels C, a multiple of 2^(n - 1).
        order: Number of gates n, at least 1.
        scale: Positive factor s of the gates, 1 / alpha in the paper. The authors' networks use 1/3.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of 2^(n - 1), or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code with the 7 x 7 convolution; its other form has a global
        filter. s multiplies the kernel and the bias of F7 in place of the map. As in the authors' networks,
        weights are initialized from a normal distribution with standard deviation 0.02, and biases with 0.

    Example:
        >>> import torch
        >>> GnConv(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, order: int = 5, scale: float = 1.0) -> None:
        super().__init__()
        check_positive("gnconv", order=order)
        check_positive_number("gnconv", scale=scale)
        if order > channels.bit_length() or channels % 2 ** (order - 1):
            expected = f"must be a multiple of 2^{order - 1} for order={order}"
            raise bad_option("gnconv", expected, channels=channels)
        self.channels, self.scale = channels, scale
        self.widths = [channels // 2**k for k in reversed(range(order))]
        total = sum(self.widths)
        self.project = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(total, total, 7, padding=3, groups=total)
        self.out = nn.Conv2d(channels, channels, 1)
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        self.mixes = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in pairs)
        self.tap = Tap()
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.trunc_normal_(conv.weight, std=0.02)
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("gnconv", x, "B C H W", C=self.channels)
        first, q = self.project(x).split([self.widths[0], sum(self.widths)], dim=1)
        gates = self._gates(q).split(self.widths, dim=1)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gates[-1].detach().mean(1)))
        y: Tensor = self.out(gnconv(first, gates, self.mixes))
        return y

    def _gates(self, q: Tensor) -> Tensor:
        bias = None if self.depthwise.bias is None else self.scale * self.depthwise.bias
        return F.conv2d(q, self.scale * self.depthwise.weight, bias, padding=3, groups=q.shape[1])


SPEC = Spec(
    name="gnconv",
    domain="spatial",
    paper=Paper(
        "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
        "Rao, Zhao, Tang, Zhou, Lim, Lu",
        2022,
        "https://arxiv.org/abs/2207.14284",
    ),
    summary="multiply features by gates of a 7 x 7 convolution, recursively, with growing width",
    module=GnConv,
    function=gnconv,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"order": 1}),
        Example("B C H W", {"order": 3, "scale": 1 / 3}),
    ),
    maps=(SpatialMap,),
    flow="x -> W_in -> [F7 | ] -> multiply -> n - 1 times W, multiply -> W_out -> y",
)
