"""The attention module of the Residual Attention Network, Wang et al. 2017."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import BadOption, BadShape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap

Activation = Literal["mixed", "channel", "spatial", "tanh"]


_FLOOR = 1e-4  # below it, norms and deviations are rounding, and their gradients overflow half precision


def _channel(logits: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.normalize(wide, dim=1, eps=_FLOOR).to(logits.dtype)


def _spatial(logits: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centerd = wide - wide.mean((2, 3), keepdim=True)
    variance = centerd.square().mean((2, 3), keepdim=True)
    return torch.sigmoid(centerd * variance.clamp_min(_FLOOR**2).rsqrt()).to(logits.dtype)


#: f1, f2 and f3 of the paper, and the activation of the networks that its authors released.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mixed": torch.sigmoid,
    "channel": _channel,
    "spatial": _spatial,
    "tanh": torch.tanh,
}


def residual_mask(logits: Tensor, activation: Activation = "mixed") -> Tensor:
    """Return the mask M = f(logits), by which a trunk T becomes (1 + M) T. (B, C, H, W) -> the same shape."""
    return ACTIVATIONS[activation](logits)


class ResidualUnit(nn.Module):
    """A pre-activation bottleneck: x + F(x), F three times BN, ReLU, convolution: 1 x 1, 3 x 3, 1 x 1.

    Where the size or the number of channels changes, x is replaced by a 1 x 1 convolution of ReLU(BN(x)).

    >>> import torch
    >>> ResidualUnit(16, 32, stride=2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        width = out_channels // 4
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        changes = channels != out_channels or stride != 1
        self.shortcut = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = self.conv1(active)
        y = self.conv2(F.relu(self.norm2(y)))
        y = self.conv3(F.relu(self.norm3(y)))
        summed: Tensor = y + (x if self.shortcut is None else self.shortcut(active))
        return summed


class SoftMask(nn.Module):
    """The mask branch up to its activation: down `depth` times, up to each size on the way, two 1 x 1."""

    def __init__(self, channels: int, depth: int, r: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.down = nn.ModuleList(_units(channels, r) for _ in range(depth))
        self.skip = nn.ModuleList(ResidualUnit(channels, channels) for _ in range(depth - 1))
        self.up = nn.ModuleList(_units(channels, r) for _ in range(depth))
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)]
        self.head = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        scales = [x]
        for down in self.down:
            scales.append(down(_pool(scales[-1])))
        y = scales.pop()
        for level in reversed(range(len(self.up))):
            reference, y = scales[level], self.up[level](y)
            y = F.interpolate(y, reference.shape[2:], mode="bilinear", align_corners=self.align_corners)
            if level > 0:
                y = y + self.skip[level - 1](reference)
        logits: Tensor = self.head(y)
        return logits


def _units(channels: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualUnit(channels, channels) for _ in range(number)))


def _pool(x: Tensor) -> Tensor:
    """Max-pool 3 x 3 with stride 2, no padding, the last window cut off at the edge; 1 stays 1."""
    return F.max_pool2d(x, [min(3, extent) for extent in x.shape[2:]], stride=2, ceil_mode=True)


class ResidualMask(nn.Module):
    """Attention module: a mask, computed coarse to fine, strengthens a trunk and never silences it.

        u = pre(x)        H = (1 + M(u)) T(u)        y = post(H)        M = f(logits)

        f1  mixed     sigma(l_ic)
        f2  channel   l_ic / ||l_i||
        f3  spatial   sigma((l_ic - mean_c) / std_c)

    Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: Residual Attention Network for Image Classification,
    CVPR 2017 (equations 3 to 6). i a position, c a channel; ||.|| over the channels of a position, mean and
    std (of the population) over the positions of a channel. `pre` and `post` are p residual units each, T
    `trunk` t of them. l `mask`: `depth` times max-pool 3 x 3, stride 2, and r units; at the bottom r units
    more; `depth` times bilinear up to the reference size, the map of the same scale on the way down,
    which is added through a unit of its own and followed by r units at all but the full scale; then
    twice BN, ReLU, 1 x 1 convolution. No convolution has a bias.

    activation      "tanh" is that of the networks that the authors released, with M in (-1, 1)
    align_corners   of the resizing; true in the authors' Caffe layer

    x (B, C, H, W) -> the same shape, any H and W. Records the mean of M over channels.

    Deviation: a side of 1 is left as it is by the pooling, and a norm or a standard deviation below 1e-4,
    as that of a constant map, is taken as 1e-4; otherwise none.

    Raises `BadOption` if C < 4 (a unit's bottleneck, C // 4, would be empty), `BadShape` for any other
    input, and in training if a single position in all is left at the bottom, for batch norm.

    >>> import torch
    >>> ResidualMask(32, depth=2)(torch.randn(2, 32, 7, 5)).shape
    torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        depth: Literal[1, 2, 3] = 1,
        activation: Activation = "mixed",
        p: int = 1,
        t: int = 2,
        r: int = 1,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        check_choice("residual_mask", "depth", depth, (1, 2, 3))
        check_choice("residual_mask", "activation", activation, list(ACTIVATIONS))
        check_positive("residual_mask", p=p, t=t, r=r)
        if channels < 4:
            raise BadOption(f"residual_mask: channels={channels} must be at least 4, the units' bottleneck")
        self.channels, self.depth = channels, depth
        self.activation: Activation = activation
        self.pre = _units(channels, p)
        self.trunk = _units(channels, t)
        self.mask = SoftMask(channels, depth, r, align_corners)
        self.post = _units(channels, p)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("residual_mask", x, "B C H W", C=self.channels)
        bottom = [max(1, extent >> self.depth) for extent in x.shape[2:]]
        if self.training and x.shape[0] * prod(bottom) == 1:
            raise BadShape(
                f"residual_mask: batch norm cannot train on {tuple(x.shape)}, a single position after "
                f"{self.depth} poolings"
            )
        x = self.pre(x)
        mask = residual_mask(self.mask(x), self.activation)
        if self.tap.recording:
            self.tap.publish(SpatialMap(mask.mean(1).detach()))
        y: Tensor = self.post((1 + mask) * self.trunk(x))
        return y


SPEC = Spec(
    name="residual_mask",
    domain="mixed",
    paper=Paper(
        "Residual Attention Network for Image Classification",
        "Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang",
        2017,
        "https://arxiv.org/abs/1704.06904",
    ),
    summary="strengthen a trunk of residual units by a mask computed at coarser scales",
    module=ResidualMask,
    function=residual_mask,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"depth": 2, "activation": "channel"}),
        Example("B C H W", {"depth": 3, "activation": "spatial", "t": 1, "align_corners": False}),
    ),
    maps=(SpatialMap,),
    flow="x -> units -> [pool, units, resize -> f, 1 + | trunk] -> multiply -> units -> y",
)
