"""Convolution of a few maps to one, which libraries for many channels compute slowly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade._torch import runs_as_defined
from saccade.ops.choice import is_native
from saccade.ops.eager import is_eager


def convolve(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Return conv(x), for a convolution of a few maps to one that keeps their extents.

    Args:
        conv: Convolution. The native form is for stride 1, one output channel, a kernel of odd size k along
            each axis, zero padding k // 2, no bias, and no hooks.
        x: Maps, (B, D, ...).

    Returns:
        A map, (B, 1, ...).

    Example:
        >>> import torch
        >>> conv = torch.nn.Conv2d(2, 1, 3, padding=1, bias=False)
        >>> convolve(conv, torch.zeros(4, 2, 7, 5)).shape
        torch.Size([4, 1, 7, 5])
    """
    if is_eager():
        reason = "" if _has_loop(conv) else "it has no loop for this module"
        if torch.is_autocast_enabled("cpu"):
            reason = "autocast sets the type"
        products = x.numel() * conv.weight[0, 0].numel()
        if is_native("convolve", x, conv.weight, work=products, reason=reason):
            from saccade.ops import native_convolution

            native: Tensor = native_convolution.convolution(x, conv.weight)
            return native
    y: Tensor = conv(x)
    return y


def _has_loop(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    return (
        any(runs_as_defined(conv, kind) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and conv.out_channels == conv.groups == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and {*conv.stride, *conv.dilation} == {1}
        and all(size % 2 for size in conv.kernel_size)
        and tuple(conv.padding) == tuple(size // 2 for size in conv.kernel_size)
    )
