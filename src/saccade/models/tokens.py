"""Tokens of vision transformers: patches of an image, or groups of channels of a feature map."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from saccade.errors import bad_option, check_choice, check_positive, check_shape

Pair = tuple[int, int]
Kind = Literal["patches", "channels"]


class Tokens:
    """The way a model splits inputs of one fixed size into tokens.

    Args:
        owner: Name of the model, for error messages.
        kind: "patches": (B, C, H, W) is split into (H / p) x (W / q) patches of p x q pixels, in row-major
            order. "channels": it is split into C / g groups of g neighboring channels with all of their
            positions.
        image_size: Height and width of the input, or one number for both; default: 224, or 7 for "channels".
        channels: Number of input channels C; default: 3, or 512 for "channels".
        patch_size: Height and width of a patch, (p, q), or one number for both.
        group_size: Number of channels g of a group.

    Attributes:
        kind: The kind of the tokens.
        channels: Number of input channels.
        patch: Height and width of a patch.
        grid: Grid of the tokens: rows and columns of patches, or one axis of channel groups.
        count: Number of tokens.
        width: Number of values of a token.

    Raises:
        BadOption: If an option is out of range, or sizes contradict each other.

    Example:
        >>> import torch
        >>> groups = Tokens("demo", "channels", image_size=7, channels=512, group_size=32)
        >>> groups.split(torch.zeros(2, 512, 7, 7)).shape
        torch.Size([2, 16, 1568])
    """

    def __init__(
        self,
        owner: str,
        kind: Kind,
        image_size: int | Pair | None = None,
        channels: int | None = None,
        patch_size: int | Pair = 16,
        group_size: int = 32,
    ) -> None:
        check_choice(owner, "tokens", kind, get_args(Kind))
        default_size, default_channels = (224, 3) if kind == "patches" else (7, 512)
        height, width = pair(owner, "image_size", default_size if image_size is None else image_size)
        rows, columns = self.patch = pair(owner, "patch_size", patch_size)
        channels = default_channels if channels is None else channels
        check_positive(owner, channels=channels, group_size=group_size)
        if kind == "patches" and (height % rows or width % columns):
            expected = f"is not divisible by patch_size={rows} x {columns}"
            raise bad_option(owner, expected, image_size=(height, width))
        if kind == "channels" and channels % group_size:
            raise bad_option(owner, f"is not divisible by group_size={group_size}", channels=channels)
        self.owner, self.kind, self.channels, self.size = owner, kind, channels, (height, width)
        patches = (height // rows, width // columns)
        self.grid: tuple[int, ...] = patches if kind == "patches" else (channels // group_size,)
        self.count = math.prod(self.grid)
        self.width = channels * height * width // self.count

    def check(self, x: Tensor) -> None:
        """Raise `BadShape` unless `x` has the input size of the model."""
        check_shape(self.owner, x, "B C H W", C=self.channels, H=self.size[0], W=self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """Reshape (B, C, H, W) to (B, count, width). A patch lists its pixels with all their channels."""
        if self.kind == "patches":
            (rows, columns), (height, width) = self.grid, self.patch
            x = x.reshape(x.shape[0], self.channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(x.shape[0], self.count, self.width)


def pair(owner: str, name: str, value: int | Pair) -> Pair:
    """Return height and width from one number or two. Raises `BadOption`."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2:
        raise bad_option(owner, "must be one number, or height and width", **{name: value})
    for side in sides:
        check_positive(owner, **{name: side})
    return sides
