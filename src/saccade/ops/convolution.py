"""Convolution of a few maps to one, which libraries for many channels compute slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saccade.ops.choice import choose
from saccade.ops.eager import is_compiling, is_eager
from saccade.ops.loops import is_available

_HAS_LOOPS = is_available()  # a compiler does not trace the cached function


class _MapConv:
    """The forward pass of the classes below."""

    def forward(self: Any, input: Tensor) -> Tensor:
        if is_compiling() and self._is_opaque(input):
            from saccade.ops import native_convolution

            opaque: Tensor = native_convolution.convolution(input, self.weight)
            return opaque
        if is_eager():
            missing = "" if self._has_loop() else "it has no loop for these options"
            if torch.is_autocast_enabled("cpu"):
                missing = "autocast sets the type"
            products = input.numel() * self.weight[0, 0].numel()
            form = choose("convolution", input, self.weight, work=products, has_kernel=False, missing=missing)
            if form == "native":
                from saccade.ops import native_convolution

                native: Tensor = native_convolution.convolution(input, self.weight)
                return native
        y: Tensor = super().forward(input)  # type: ignore[misc]
        return y

    def _is_opaque(self: Any, input: Tensor) -> bool:
        """Return whether the operator around the native loop is compiled, in place of a convolution.

        See `saccade.ops.small_convolution.convolve` for what a convolution does to the other maps of a graph.
        """
        return (
            input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and self._has_loop()
            and _HAS_LOOPS
        )

    def _has_loop(self: Any) -> bool:
        """Return whether it is a convolution to one map of the same extents, without a bias."""
        sizes = self.kernel_size
        return (
            self.out_channels == self.groups == 1
            and self.bias is None
            and self.padding_mode == "zeros"
            and {*self.stride, *self.dilation} == {1}
            and all(size % 2 for size in sizes)
            and self.padding == tuple(size // 2 for size in sizes)
        )


class MapConv1d(_MapConv, nn.Conv1d):
    """`torch.nn.Conv1d` with a native form for a few maps (B, D, W) to one, with a kernel of odd size."""


class MapConv2d(_MapConv, nn.Conv2d):
    """`torch.nn.Conv2d` with a native form for a few maps (B, D, H, W) to one, with a kernel of odd size.

    The native form runs for stride 1, zero padding k // 2 and no bias.

    Example:
        >>> import torch
        >>> conv = MapConv2d(2, 1, 3, padding=1, bias=False)
        >>> conv(torch.zeros(4, 2, 7, 5)).shape
        torch.Size([4, 1, 7, 5])
    """


class MapConv3d(_MapConv, nn.Conv3d):
    """`torch.nn.Conv3d` with a native form for a few maps (B, D, T, H, W) to one; the kernel size is odd."""


#: The classes by the number of spatial axes.
MAP_CONV: Mapping[int, type[MapConv1d | MapConv2d | MapConv3d]] = {1: MapConv1d, 2: MapConv2d, 3: MapConv3d}
