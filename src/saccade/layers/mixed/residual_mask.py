"""The attention module of the Residual Attention Network, Wang et al. 2017."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap

Activation = Literal["mixed", "channel", "spatial", "tanh"]

_FLOOR = 1e-4  # smaller norms and deviations are rounding errors whose gradients overflow half precision


def _channel(logits: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.normalize(wide, dim=1, eps=_FLOOR).to(logits.dtype)


def _spatial(logits: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centered = wide - wide.mean((2, 3), keepdim=True)
    variance = centered.square().mean((2, 3), keepdim=True)
    return torch.sigmoid(centered * variance.clamp_min(_FLOOR**2).rsqrt()).to(logits.dtype)


#: f1, f2 and f3 of the paper, and the activation of the networks that the authors released.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mixed": torch.sigmoid,
    "channel": _channel,
    "spatial": _spatial,
    "tanh": torch.tanh,
}


def residual_mask(logits: Tensor, activation: Activation = "mixed") -> Tensor:
    """Return the mask M = f(logits), which scales the output T of a trunk to (1 + M) T.

    Args:
        logits: Output of the mask branch, (B, C, H, W).
        activation: Name of f in `ACTIVATIONS`.

    Returns:
        Mask, (B, C, H, W).
    """
    return ACTIVATIONS[activation](logits)


class ResidualUnit(nn.Module):
    """Pre-activation bottleneck x + F(x); F is three times BN, ReLU, convolution: 1 x 1, 3 x 3, 1 x 1.

    Where the size or the number of channels changes, a 1 x 1 convolution of ReLU(BN(x)) replaces x.

    Args:
        channels: Number of input channels.
        out_channels: Number of output channels, a multiple of 4.
        stride: Stride of the 3 x 3 convolution.

    Example:
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
        return torch.add(y, x if self.shortcut is None else self.shortcut(active))


class SoftMask(nn.Module):
    """The mask branch up to its activation: `depth` levels down and up, two 1 x 1 convolutions."""

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


def _units(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualUnit(channels, channels) for _ in range(count)))


def _pool(x: Tensor) -> Tensor:
    """Max-pool 3 x 3 with stride 2 and a cropped last window; a side of length 1 is unchanged."""
    return F.max_pool2d(x, [min(3, extent) for extent in x.shape[2:]], stride=2, ceil_mode=True)


class ResidualMask(nn.Module):
    """Attention module of the Residual Attention Network: a coarse-to-fine mask that amplifies a trunk.

        u = pre(x)        H = (1 + M(u)) T(u)        y = post(H)        M = f(l)

        f1  mixed     sigma(l_ic)
        f2  channel   l_ic / ||l_i||
        f3  spatial   sigma((l_ic - mean_c) / std_c)

    `pre` and `post` consist of p residual units each, T (`trunk`) of t units. l is the output of `mask`, i a
    position and c a channel, sigma the logistic function, ||.|| the norm over the channels of a position,
    mean_c and std_c the mean and the population standard deviation over the positions of a channel, M the
    mask and y the output.

    The mask branch has `depth` levels, each a 3 x 3 max-pooling with stride 2 and r units; r more units
    follow at the lowest resolution. Then, `depth` times, the map is resized bilinearly to the size it had at
    that level on the way down; at all levels but the full resolution, the map of that size is added through a
    unit of its own, and r units follow. Two times BN, ReLU and 1 x 1 convolution finish the branch. No
    convolution has a bias. The recorded map is the mean of M over channels.

    References:
        Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: Residual Attention Network for Image Classification,
        CVPR 2017 (equations 3 to 6).

    Args:
        channels: Number of channels C, at least 4.
        depth: Number of times the mask branch halves the map: 1, 2 or 3.
        activation: Function f: "mixed", "channel" or "spatial"; or "tanh", as in the networks that the
            authors released, with M in (-1, 1).
        p: Number of units before and after the two branches, at least 1.
        t: Number of units of the trunk, at least 1.
        r: Number of units between resizing steps, at least 1.
        align_corners: Whether resizing aligns the corner pixels, as in the Caffe layer of the authors.

    Shape:
        - Input: (B, C, H, W), any H and W.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C < 4, since the bottleneck of a unit has C // 4 channels, or an option is out of range.
        BadShape: For any other input shape; in training also if the batch has a single position at the lowest
            resolution, on which batch norm cannot train.

    Note:
        Pooling leaves a side of length 1 unchanged. A norm or standard deviation below 1e-4, as that of a
        constant map, is replaced by 1e-4.

    Example:
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
            raise bad_option("residual_mask", "must be at least 4, for the bottleneck", channels=channels)
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
            expected = f"batch norm needs more than one position after {self.depth} poolings in training"
            raise bad_shape("residual_mask", expected, x)
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
    summary="amplify a trunk of residual units by a mask computed at coarser scales",
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
