"""The spatial attention module of CBAM, Woo et al. 2018."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_choice, check_positive, check_shape
from saccade.layers.dims import AXES, NORM, Dims, check_dims
from saccade.layers.papers import CBAM_PAPER
from saccade.layers.spec import Example, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.convolution import MAP_CONV
from saccade.ops.gates import gate_by_pools, mean_and_maximum

#: Descriptors of a position from the mean and the maximum over channels. "avgmax" is timm's light form.
POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "avg": lambda average, _: average,
    "max": lambda _, maximum: maximum,
    "avgmax": lambda average, maximum: (average + maximum) / 2,
}


def spatial_gate(x: Tensor, layers: nn.Module, pools: Sequence[str] = ("max", "avg")) -> Tensor:
    """Return the spatial weights sigma(layers(pools of x over channels)).

    Args:
        x: Features, (B, C, ...).
        layers: Module from as many channels as pools to one.
        pools: Names of descriptors in `POOLS`.

    Returns:
        Weights, (B, 1, ...).
    """
    return _weights(*mean_and_maximum(x, 1), layers, pools)


def _weights(average: Tensor, maximum: Tensor, layers: nn.Module, pools: Sequence[str]) -> Tensor:
    """Return the spatial weights from mean and maximum over channels."""
    compressed = torch.stack([POOLS[pool](average, maximum) for pool in pools], dim=1)
    return torch.sigmoid(layers(compressed))


class SpatialGate(nn.Module):
    """CBAM's spatial attention module: a wide convolution of the channel-wise maximum and mean.

        M_s = sigma(BN(f * [max_c x; mean_c x]))        y = M_s x

    f is `conv` (of size k along each axis, no bias), * a convolution, c a channel, k is `kernel_size`, sigma
    the logistic function, M_s the gate and y the output. The batch norm (eps 1e-5, momentum 0.01) is part of
    the authors' code, not of the paper.

    References:
        Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018 (equation 3).

    Args:
        channels: Number of channels C.
        kernel_size: Kernel size k, odd.
        batch_norm: Whether to use the batch norm. False gives the gate of the paper.
        relu: Whether to apply the unused ReLU of the authors' code before sigma.
        dims: Number of spatial axes of the input: 1, 2 or 3.
        pools: Descriptors of a position: "max" and "avg" are those of the paper; "avgmax" is their average.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If the kernel size is even or below 1, or a descriptor is unknown.
        BadShape: For any other input shape; in training with batch norm also for a single position in the
            batch (one map of size 1), which has no batch statistics.

    Note:
        The authors' ResNet initializes the weight of the batch norm with 0; this module does not. The paper
        has images, `dims=2`; in a volume, f extends along all three axes.

    Example:
        >>> import torch
        >>> SpatialGate(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        batch_norm: bool = True,
        relu: bool = False,
        dims: Dims = 2,
        pools: Sequence[str] = ("max", "avg"),
    ) -> None:
        super().__init__()
        check_dims("spatial_gate", dims)
        check_positive("spatial_gate", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("spatial_gate", "must be odd to keep the map size", kernel_size=kernel_size)
        if isinstance(pools, str) or not pools or len({*pools}) < len(pools):
            raise bad_option("spatial_gate", f"must be different names from {list(POOLS)}", pools=pools)
        for pool in pools:
            check_choice("spatial_gate", "pools", pool, list(POOLS))
        self.channels, self.dims, self.pools = channels, dims, tuple(pools)
        self.conv = MAP_CONV[dims](len(pools), 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = NORM[dims](1, eps=1e-5, momentum=0.01) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if relu else nn.Identity()
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("spatial_gate", x, AXES[self.dims], C=self.channels)
        return gate_by_pools(x, spatial=partial(self.weigh, x))

    def weigh(self, x: Tensor, average: Tensor, maximum: Tensor) -> Tensor:
        """Return the weights from mean and maximum over channels, (B, ...) each. The tap publishes them."""
        if self.training and not isinstance(self.norm, nn.Identity) and average.numel() == 1:
            raise bad_shape("spatial_gate", "batch norm needs more than one position in training", x)
        layers = nn.Sequential(self.conv, self.norm, self.activation)
        gate = _weights(average, maximum, layers, self.pools)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate[:, 0].detach()))
        return gate


SPEC = Spec(
    name="spatial_gate",
    domain="spatial",
    paper=CBAM_PAPER,
    summary="gate each position by a wide convolution of the maximum and the mean over channels",
    module=SpatialGate,
    function=spatial_gate,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"kernel_size": 3, "batch_norm": False, "relu": True, "pools": ("avgmax",)}),
        Example("B C W", {"dims": 1}),
        Example("B C T H W", {"dims": 3}),
    ),
    maps=(SpatialMap,),
    flow="x -> [[maximum over channels | mean] -> conv kxk, BN -> sigmoid | ] -> multiply -> y",
)
