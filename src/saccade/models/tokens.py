"""Tokens of vision transformers: patches of an image, or groups of channels of a feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from saccade.errors import bad_option, check_choice, check_positive, check_shape

Pair = tuple[int, int]
Kind = Literal["patches", "channels"]


@dataclass(frozen=True)
class Tokens:
    """The way a model splits inputs of one fixed size into tokens.

    Args:
        owner: Name of the model, for error messages.
        kind: "patches": (B, C, H, W) is split into (H / p) x (W / q) patches of p x q pixels, in row-major
            order. "channels": it is split into C / g groups of g neighboring channels with all of their
            positions.
        size: Height and width of the input.
        channels: Number of input channels C.
        patch: Height and width of a patch, (p, q).
        group: Number of channels g of a group.

    Example:
        >>> import torch
        >>> groups = Tokens("demo", "channels", size=(7, 7), channels=512, patch=(0, 0), group=32)
        >>> groups.split(torch.zeros(2, 512, 7, 7)).shape
        torch.Size([2, 16, 1568])
    """

    owner: str
    kind: Kind
    size: Pair
    channels: int
    patch: Pair
    group: int

    @classmethod
    def of(
        cls,
        owner: str,
        kind: Kind,
        image_size: int | Pair | None,
        channels: int | None,
        patch_size: int | Pair,
        group_size: int,
    ) -> Tokens:
        """Build the tokens from the options that both vision transformers share.

        The default input is 224 x 224 with 3 channels, or 7 x 7 with 512 channels for tokens "channels".

        Raises:
            BadOption: If an option is out of range, or sizes contradict each other.
        """
        check_choice(owner, "tokens", kind, ("patches", "channels"))
        default_size, default_channels = (224, 3) if kind == "patches" else (7, 512)
        size = pair(owner, "image_size", default_size if image_size is None else image_size)
        channels = default_channels if channels is None else channels
        check_positive(owner, channels=channels, group_size=group_size)
        patch = pair(owner, "patch_size", patch_size)
        if kind == "patches" and (size[0] % patch[0] or size[1] % patch[1]):
            raise bad_option(
                owner, f"is not divisible by patch_size={patch[0]} x {patch[1]}", image_size=size
            )
        if kind == "channels" and channels % group_size:
            raise bad_option(owner, f"is not divisible by group_size={group_size}", channels=channels)
        return cls(owner, kind, size, channels, patch, group_size)

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid of the tokens: rows and columns of patches, or one axis of channel groups."""
        if self.kind == "channels":
            return (self.channels // self.group,)
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    @property
    def count(self) -> int:
        """Number of tokens."""
        rows, *columns = self.grid
        return rows * columns[0] if columns else rows

    @property
    def width(self) -> int:
        """Number of values of a token."""
        if self.kind == "channels":
            return self.group * self.size[0] * self.size[1]
        return self.channels * self.patch[0] * self.patch[1]

    def check(self, x: Tensor) -> None:
        """Raise `BadShape` unless `x` has the input size of the model."""
        check_shape(self.owner, x, "B C H W", C=self.channels, H=self.size[0], W=self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """Reshape (B, C, H, W) to (B, count, width). A patch lists its pixels with all their channels."""
        if self.kind == "channels":
            return x.reshape(x.shape[0], self.count, self.width)
        (rows, columns), (height, width) = self.grid, self.patch
        patches = x.reshape(x.shape[0], self.channels, rows, height, columns, width)
        return patches.permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], self.count, self.width)


def pair(owner: str, name: str, value: int | Pair) -> Pair:
    """Return height and width from one number or two. Raises `BadOption`."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise bad_option(owner, "must be one number, or height and width", **{name: value})
        height, width = value
    else:
        height = width = value
    for extent in (height, width):
        check_positive(owner, **{name: extent})
    return height, width
