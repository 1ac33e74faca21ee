"""CBAM, Woo et al. 2018."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from saccade._torch import runs_as_defined
from saccade.errors import check_shape
from saccade.layers.channel.channel_gate import ChannelGate
from saccade.layers.dims import AXES, Dims, check_dims
from saccade.layers.papers import CBAM_PAPER
from saccade.layers.spatial.spatial_gate import SpatialGate
from saccade.layers.spec import Example, Spec
from saccade.maps import ChannelMap, SpatialMap
from saccade.ops.eager import is_compiling, is_eager
from saccade.ops.gates import gate_by_pools


def cbam(
    x: Tensor, channel: Callable[[Tensor], Tensor], spatial: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Apply the channel gate, then the spatial gate if there is one.

    Args:
        x: Features, (B, C, ...).
        channel: Function that returns the features with gated channels.
        spatial: Function that returns the features with gated positions, or None.

    Returns:
        Gated features, same shape as x.
    """
    gated = channel(x)
    return gated if spatial is None else spatial(gated)


class CBAM(nn.Module):
    """Convolutional block attention module: gates the channels, then the positions of the result.

        x' = M_c(x) x        y = M_s(x') x'

    M_c is the gate of `channel` (see `ChannelGate`), M_s the gate of `spatial` (see `SpatialGate`), x' the
    result of the channel gate and y the output. The paper places the module on the residual branch, before
    the addition. Recording gives two maps, at `.channel` and `.spatial`.

    References:
        Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018 (equation 1).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r of the channel gate, from 1 to C.
        kernel_size: Kernel size of the spatial gate, odd.
        pools: Pooling functions of the channel gate: "avg", "max", "lp", "lse" or "avgmax".
        spatial: Whether to use the spatial gate. False leaves the channel gate alone, as an option of the
            authors' code does.
        dims: Number of spatial axes of the input: 1, 2 or 3.
        bias: Whether the layers of the channel gate have biases.
        hidden: Width of the hidden layer of the channel gate in place of C // r.
        spatial_pools: Descriptors of the spatial gate: "max", "avg" or "avgmax".

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If an option is out of range, see `ChannelGate` and `SpatialGate`.
        BadShape: For any other input shape; in training also as `SpatialGate` does.

    Note:
        Differences from the paper are those of `ChannelGate` and `SpatialGate`.

    Example:
        >>> import torch
        >>> CBAM(32, reduction=8, kernel_size=3)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        pools: Sequence[str] = ("avg", "max"),
        spatial: bool = True,
        dims: Dims = 2,
        bias: bool = True,
        hidden: int | None = None,
        spatial_pools: Sequence[str] = ("max", "avg"),
    ) -> None:
        super().__init__()
        check_dims("cbam", dims)
        self.channels, self.dims = channels, dims
        self.channel = ChannelGate(channels, reduction, pools, bias, hidden)
        self.spatial = SpatialGate(channels, kernel_size, dims=dims, pools=spatial_pools) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        check_shape("cbam", x, AXES[self.dims], C=self.channels)
        channel, spatial = self.channel, self.spatial
        if spatial is not None and (is_eager() or is_compiling()) and _are_as_defined(channel, spatial):
            return gate_by_pools(x, partial(channel.weigh, x), partial(spatial.weigh, x))
        return cbam(x, channel, spatial)


def _are_as_defined(channel: ChannelGate, spatial: SpatialGate) -> bool:
    """Return whether no hook or replacement sees the map between the gates, which is then never computed."""
    return (
        runs_as_defined(channel, ChannelGate)
        and runs_as_defined(spatial, SpatialGate)
        and channel.has_paper_pools
    )


SPEC = Spec(
    name="cbam",
    domain="mixed",
    paper=CBAM_PAPER,
    summary="gate the channels, then the positions",
    module=CBAM,
    function=cbam,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"reduction": 4, "kernel_size": 3, "pools": ("max",)}),
        Example("B C H W", {"spatial": False}),
        Example("B C W", {"dims": 1}),
        Example("B C T H W", {"dims": 3}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [channel gate | ] -> multiply -> [spatial gate | ] -> multiply -> y",
)
