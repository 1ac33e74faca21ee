"""The attention gate of Attention U-Net, Oktay et al. 2018."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_shape, check_choice, check_positive, check_shape
from saccade.layers.dims import AXES, CONV, NORM
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import scale

_MODE = {2: "bilinear", 3: "trilinear"}


def attention_gate(x: Tensor, g: Tensor, theta: nn.Module, phi: nn.Module, psi: nn.Module) -> Tensor:
    """Return the weights of the positions of x: sigma(psi(relu(theta(x) + phi(g)))), resized to x.

    Args:
        x: Features, (B, C, ...).
        g: Gating signal of any spatial size, (B, G, ...). phi(g) is resized to theta(x).
        theta: Module of x, with F_int output channels.
        phi: Module of g, with F_int output channels.
        psi: Module from F_int channels to one.

    Returns:
        Weights, (B, 1, ...), of the spatial size of x.
    """
    mode = _MODE[x.ndim - 2]
    features = theta(x)
    gating = F.interpolate(phi(g), features.shape[2:], mode=mode)
    alpha = torch.sigmoid(psi(F.relu(features + gating)))
    return F.interpolate(alpha, x.shape[2:], mode=mode)


class AttentionGate(nn.Module):
    """Gates the positions of a skip connection by a coarser map of the decoder.

        q = psi(ReLU(theta(x) + up(phi(g))))        alpha = up(sigma(q))        y = alpha x

    x is the skip connection, g the gating signal, q the score, alpha the weights and y the output. W_x
    (`theta`) is a convolution with kernel and stride `stride` and no bias; W_g (`phi`) and `psi` are 1 x 1
    convolutions with bias. up is bilinear or trilinear resizing without aligned corners, and sigma the
    logistic function.

    References:
        Oktay, Schlemper, Le Folgoc, Lee, Heinrich, Misawa, Mori, McDonagh, Hammerla, Kainz, Glocker,
        Rueckert: Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018 (equations 1 and 2).

    Args:
        channels: Number of channels C of x.
        inner_channels: Number F_int of channels of theta(x) and phi(g); by default, C // 2, at least 1.
        gating_channels: Number F_g of channels of g; by default, C.
        stride: Factor by which the resolution of the weights is lower than that of x, at least 1; 2 in the
            authors' code.
        dims: Number of spatial axes: 2 for images, 3 for volumes.
        output_projection: Whether a 1 x 1 convolution and a batch norm follow the gate, as in the authors'
            code; the paper has none.

    Shape:
        - Input: (B, C, H, W) or (B, C, T, H, W).
        - Gating signal: (B, F_g, ...), of any spatial size.
        - Output: same shape as the input.

    Raises:
        BadOption: If an option is out of range.
        BadShape: For any other input shape and for a map smaller than the stride; in training with
            `output_projection` also for a single position in the batch.

    Note:
        The authors used a version of PyTorch that aligned corners when resizing; current versions run their
        code without aligned corners, as this module does. As in their code, theta ignores the last row or
        column of a size that the stride does not divide; alpha is resized to all of x.

    Example:
        >>> import torch
        >>> gate = AttentionGate(32, gating_channels=64)
        >>> gate(torch.randn(2, 32, 14, 10), torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 32, 14, 10])
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        gating_channels: int | None = None,
        stride: int = 2,
        dims: Literal[2, 3] = 2,
        output_projection: bool = False,
    ) -> None:
        super().__init__()
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        gating = channels if gating_channels is None else gating_channels
        check_positive("attention_gate", inner_channels=inner, gating_channels=gating, stride=stride)
        check_choice("attention_gate", "dims", dims, (2, 3))
        conv = CONV[dims]
        self.channels, self.gating_channels, self.stride = channels, gating, stride
        self.dims = dims
        self.theta = conv(channels, inner, stride, stride=stride, bias=False)
        self.phi = conv(gating, inner, 1)
        self.psi = conv(inner, 1, 1)
        self.output = (
            nn.Sequential(conv(channels, channels, 1), NORM[dims](channels)) if output_projection else None
        )
        self.tap = Tap()

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        check_shape("attention_gate", x, AXES[self.dims], C=self.channels)
        check_shape(
            "attention_gate", g, AXES[self.dims].replace("C", "G"), B=x.shape[0], G=self.gating_channels
        )
        if any(extent < self.stride for extent in x.shape[2:]):
            raise bad_shape("attention_gate", f"expected a map of at least the stride {self.stride}", x)
        if self.output is not None and self.training and x[:, 0].numel() == 1:
            raise bad_shape("attention_gate", "batch norm needs more than one position in training", x)
        alpha = attention_gate(x, g, self.theta, self.phi, self.psi)
        if self.tap.recording:
            self.tap.publish(SpatialMap(alpha[:, 0].detach()))
        gated = scale(x, alpha)
        return gated if self.output is None else self.output(gated)


SPEC = Spec(
    name="attention_gate",
    domain="spatial",
    paper=Paper(
        "Attention U-Net: Learning Where to Look for the Pancreas",
        "Oktay, Schlemper, Le Folgoc, Lee, Heinrich, Misawa, Mori, McDonagh, Hammerla, Kainz, Glocker, "
        "Rueckert",
        2018,
        "https://arxiv.org/abs/1804.03999",
    ),
    summary="gate the positions of a skip connection by a coarser gating signal, the second input",
    module=AttentionGate,
    function=attention_gate,
    examples=(
        Example("B C H W, B C I J"),
        Example("B C H W, B 24 I J", {"inner_channels": 8, "gating_channels": 24, "stride": 1}),
        Example("B C T H W, B C 2 I J", {"dims": 3}),
        Example("B C H W, B C I J", {"output_projection": True}),
    ),
    maps=(SpatialMap,),
    flow="[[x -> theta | g -> phi, resize] -> sum, ReLU -> psi, sigmoid, resize | x] -> multiply -> y",
)
