"""The attention gate of Attention U-Net, Oktay et al. 2018."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import BadShape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import scale

_MODE = {2: "bilinear", 3: "trilinear"}


def attention_gate(x: Tensor, g: Tensor, theta: nn.Module, phi: nn.Module, psi: nn.Module) -> Tensor:
    """Return the weights of the places of `x`, sigma(psi(relu(theta(x) + phi(g)))), resized to them.

    x (B, C, ...), g (B, G, ...) of any size -> (B, 1, ...) as large as `x`. phi(g) is resized to theta(x).
    """
    mode = _MODE[x.ndim - 2]
    features = theta(x)
    gating = F.interpolate(phi(g), features.shape[2:], mode=mode)
    alpha = torch.sigmoid(psi(F.relu(features + gating)))
    return F.interpolate(alpha, x.shape[2:], mode=mode)


class AttentionGate(nn.Module):
    """Gate the places of a skip map by what a coarser map of the decoder asks for.

        q = psi(ReLU(theta(x) + up(phi(g))))        alpha = up(sigma(q))        y = alpha x

    Oktay, Schlemper, Le Folgoc, Lee, Heinrich, Misawa, Mori, McDonagh, Hammerla, Kainz, Glocker,
    Rueckert: Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018 (equations 1 and 2).
    W_x `theta` (kernel and stride `stride`, no bias), W_g `phi` and psi `psi` (1 x 1, with bias), alpha the
    weights, up a bilinear or trilinear resizing, corners not aligned.

    inner_channels      F_int, channels of theta(x) and phi(g); None is C // 2, at least 1
    gating_channels     F_g, channels of g; None is C
    stride              how much coarser than x the weights are computed, 2 in the authors' code
    dims                2 for images, 3 for volumes
    output_projection   a 1 x 1 convolution and a batch norm after the gate, as in the authors' code; the
                        paper has none

    x (B, C, H, W) or (B, C, T, H, W), g (B, G, ...) of any size -> the shape of x.

    Deviation: none. (The authors wrote for a PyTorch that aligned corners when it resized; their code, run
    by one of today, does not, and neither does this. As theirs, theta leaves out the last row or column
    of a size that the stride does not divide; alpha is resized over all of x.)

    Raises `BadOption` for an option below 1, `BadShape` for any other input, for a map x smaller than the
    stride, and in training with `output_projection` for a single position in all.

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
        conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.channels, self.gating_channels, self.stride = channels, gating, stride
        self.axes = "H W" if dims == 2 else "T H W"
        self.theta = conv(channels, inner, stride, stride=stride, bias=False)
        self.phi = conv(gating, inner, 1)
        self.psi = conv(inner, 1, 1)
        self.output = (
            nn.Sequential(conv(channels, channels, 1), norm(channels)) if output_projection else None
        )
        self.tap = Tap()

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        check_shape("attention_gate", x, f"B C {self.axes}", C=self.channels)
        check_shape("attention_gate", g, f"B G {self.axes}", B=x.shape[0], G=self.gating_channels)
        if any(extent < self.stride for extent in x.shape[2:]):
            raise BadShape(
                f"attention_gate: the map {tuple(x.shape)} is smaller than the stride, {self.stride}"
            )
        if self.output is not None and self.training and x[:, 0].numel() == 1:
            raise BadShape(
                f"attention_gate: batch norm cannot train on the single position of {tuple(x.shape)}"
            )
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
    summary="gate the places of a skip map by a coarser gating map, its second input",
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
