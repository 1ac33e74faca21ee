"""Convolutions of small maps beside a large one, in a form that leaves the large one alone when compiled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._torch import is_transformed, runs_as_defined
from saccade.ops.eager import is_compiling, is_eager

_LONGEST = 15  # weights of a kernel that are written out as a sum


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Return conv(x), for the small maps from which a gate is computed.

    On the CPU, `torch.compile` converts all maps of a graph with a convolution to channels_last: the features
    are copied, and the copy is kept for the backward pass. Under compilation, a 1 x 1 convolution is
    therefore a matrix product in the layout of its input. Other modules, and those with hooks, are called.

    Args:
        conv: Any module.
        x: Its input.

    Example:
        >>> import torch
        >>> conv = nn.Conv2d(3, 5, 1)
        >>> convolve(conv, torch.zeros(2, 3, 7, 1)).shape
        torch.Size([2, 5, 7, 1])
    """
    if is_compiling() and isinstance(conv, nn.Conv2d) and _is_pointwise(conv) and not _is_autocast(x):
        return _product(conv, x)
    result: Tensor = conv(x)
    return result


class ShortConv1d(nn.Conv1d):
    """A convolution along one axis that is a sum of shifted products where that is faster.

    For one channel and up to 15 weights, this is the case in eager mode on the CPU, where a call of the
    convolution takes longer than its products, and under compilation, see `convolve`.

    Example:
        >>> import torch
        >>> ShortConv1d(1, 1, 3, padding=1)(torch.zeros(2, 1, 8)).shape
        torch.Size([2, 1, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        is_fast = is_compiling() or (is_eager() and input.device.type == "cpu" and not is_transformed())
        if is_fast and self._is_short() and not _is_autocast(input):
            return _sum_of_shifts(self, input)
        return super().forward(input)

    def _is_short(self) -> bool:
        """Return whether it is a convolution of one channel to one of the same length, with few weights."""
        (size,) = self.kernel_size
        return (
            self.in_channels == self.out_channels == 1
            and self.stride == self.dilation == (1,)
            and size % 2 == 1
            and size <= _LONGEST
            and self.padding == (size // 2,)
            and self.padding_mode in ("zeros", "circular")
        )


def _is_autocast(x: Tensor) -> bool:
    """Return whether the type of a convolution of x is that of an autocast."""
    return torch.is_autocast_enabled(x.device.type)


def _product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias = conv.weight.flatten(1), conv.bias
    if _has_channels_last(x):
        tokens = x.permute(0, 2, 3, 1)  # flat: then the product adds the bias
        product: Tensor = F.linear(tokens.flatten(0, 2), weight, bias)
        return product.view(tokens.shape[:3] + weight.shape[:1]).permute(0, 3, 1, 2)
    y: Tensor = (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
    return y if bias is None else y + bias[:, None, None]


def _sum_of_shifts(conv: nn.Conv1d, x: Tensor) -> Tensor:
    length, border = x.shape[2], conv.kernel_size[0] // 2
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(x, (border, border), mode=mode) if border else x
    first, *others = conv.weight[0, 0].unbind()
    y = first * padded[:, :, :length]
    for i, weight in enumerate(others, 1):
        y = y + weight * padded[:, :, i : i + length]
    return y if conv.bias is None else y + conv.bias[:, None]


def _has_channels_last(x: Tensor) -> bool:
    """Return whether the channels of a small map have the smallest stride, as after features that do."""
    return x.shape[1] > 1 and x.stride(1) == 1 and x[0, 0].numel() > 1


def _is_pointwise(conv: nn.Conv2d) -> bool:
    """Return whether it is a 1 x 1 convolution that runs as its class defines it."""
    sizes = (*conv.kernel_size, *conv.stride, conv.groups)
    return {*sizes} == {1} and conv.padding == (0, 0) and runs_as_defined(conv, nn.Conv2d)
