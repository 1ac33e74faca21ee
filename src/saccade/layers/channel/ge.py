"""Gather-excite, Hu et al. 2018."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap
from saccade.ops.gates import gate_channels, mean, scale


def ge(x: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the weights sigma(gather(x)) of every channel, on the grid of the gathered map.

    Args:
        x: Features, (B, C, H, W).
        gather: Function from x to a map of the same channels on a coarser grid, (B, C, H', W').

    Returns:
        Weights, (B, C, H', W').
    """
    return torch.sigmoid(gather(x))


class GE(nn.Module):
    """Gather-excite: gates each channel by its own context, gathered over a neighborhood of each position.

        g = gather(x)        y_chw = sigma(resize(g))_chw x_chw

    With an extent e, `gather` shrinks both axes by e, without mixing channels: the mean of windows of 2e - 1
    positions with stride e, or with `parameters`, log2 e depthwise 3 x 3 convolutions of stride 2, each with
    a batch norm and all but the last with a ReLU. `resize` repeats the nearest value and sigma is the
    logistic function. With the extent 0, gather is global: the mean of all positions, or with `parameters`
    one depthwise convolution of the size of the map and a batch norm. With `hidden` units, the gathered
    channels are mixed: g = W2 relu(W1 gather(x) + b1) + b2 (GE-theta-plus).

    Recording gives the weights of the channels for the extent 0, and else their mean over channels.

    References:
        Hu, Shen, Albanie, Sun, Vedaldi: Gather-Excite: Exploiting Feature Context in Convolutional Neural
        Networks, NeurIPS 2018 (section 3).

    Args:
        channels: Number of channels C.
        extent: Extent ratio e, at least 2, or 0 for all positions. With `parameters`, it is a power of 2.
        parameters: Whether convolutions gather instead of means (GE-theta instead of GE-theta-minus).
        size: Height and width of the map, a number or a pair, which global convolutions need. Only with
            `parameters` and the extent 0.
        hidden: Number of hidden units of the MLP that mixes the gathered channels; C / 16 in the paper. None
            leaves out the MLP.

    Shape:
        - Input: (B, C, H, W), with the size (H, W) for global convolutions.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If an option is out of range, or `size` is missing or has no effect.
        BadShape: For any other input shape; with `parameters`, in training also if a gathered channel has a
            single value in the batch, which has no batch statistics.

    Note:
        Deviation: none. Convolutions have no bias and zero padding; means leave out positions outside the
        map. timm's module has the MLP unless `use_mlp` is False.

    Example:
        >>> import torch
        >>> GE(32, extent=4, parameters=True)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        parameters: bool = False,
        size: int | tuple[int, int] | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(extent, bool) or not isinstance(extent, int) or extent < 0 or extent == 1:
            raise bad_option("ge", "must be 0 or an integer of at least 2", extent=extent)
        if parameters and extent & (extent - 1):
            raise bad_option("ge", "must be a power of 2 with parameters=True", extent=extent)
        is_sized = parameters and extent == 0
        if is_sized != (size is not None):
            expected = "is required by" if is_sized else "is only for"
            raise bad_option("ge", f"{expected} parameters=True and extent=0", size=size)
        self.channels, self.extent, self.parametric = channels, extent, parameters
        self.size = None if size is None else _pair(size)
        self.gather = _convolutions(channels, extent, self.size) if parameters else _Means(extent)
        if hidden is not None:
            check_positive("ge", hidden=hidden)
            layers = nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        self.mlp = nn.Identity() if hidden is None else nn.Sequential(*layers)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("ge", x, "B C H W", C=self.channels)
        self._check(x)
        gate = ge(x, nn.Sequential(self.gather, self.mlp))
        if self.extent == 0:
            return gate_channels(x, gate.flatten(1), self.tap)
        if self.tap.recording:
            weights = gate.detach().mean(1, keepdim=True)
            self.tap.publish(SpatialMap(F.interpolate(weights, x.shape[2:])[:, 0]))
        return scale(x, F.interpolate(gate, x.shape[2:]))

    def _check(self, x: Tensor) -> None:
        height, width = x.shape[2:]
        if self.size not in (None, (height, width)):
            raise bad_shape("ge", f"expected maps of size={self.size}", x)
        if self.training and self.parametric:
            stride = self.extent or max(height, width)
            if x.shape[0] == 1 and max(height, width) <= stride:
                raise bad_shape("ge", "batch norm needs more than one gathered position in training", x)


class _Means(nn.Module):
    """Gather without parameters."""

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = extent

    def forward(self, x: Tensor) -> Tensor:
        if self.extent == 0:
            return mean(x.flatten(2))[:, :, None, None]
        width, border = 2 * self.extent - 1, self.extent - 1
        return F.avg_pool2d(x, width, self.extent, border, count_include_pad=False)


def _convolutions(channels: int, extent: int, size: tuple[int, int] | None) -> nn.Sequential:
    """Return the gathering convolutions, initialized as in the authors' network."""
    layers: list[nn.Module] = []
    for _ in range(max(1, extent.bit_length() - 1)):
        shape, stride, padding = (size, 1, 0) if size else ((3, 3), 2, 1)
        conv = nn.Conv2d(channels, channels, shape, stride, padding, groups=channels, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        raise bad_option("ge", "must be a number or a pair of numbers", size=size)
    for extent in pair:
        check_positive("ge", size=extent)
    return pair[0], pair[1]


SPEC = Spec(
    name="ge",
    domain="channel",
    paper=Paper(
        "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
        "Hu, Shen, Albanie, Sun, Vedaldi",
        2018,
        "https://arxiv.org/abs/1810.12348",
    ),
    summary="gate each channel by its own mean or convolution over a large neighborhood",
    module=GE,
    function=ge,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"extent": 2, "hidden": 4}),
        Example("B C H W", {"extent": 4, "parameters": True}),
        Example("B C 8 6", {"parameters": True, "size": (8, 6)}),
    ),
    maps=(ChannelMap,),
    flow="x -> [gather: mean or depthwise conv -> resize -> sigmoid | ] -> multiply -> y",
)
