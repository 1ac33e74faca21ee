"""Tokens: an image as its patches, a feature map as its groups of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from saccade.errors import BadOption, check_choice, check_positive, check_shape

Pair = tuple[int, int]
Kind = Literal["patches", "channels"]


@dataclass(frozen=True)
class Tokens:
    """How a model cuts its one input size into tokens.

    "patches"     (B, C, H, W) into (H / p) x (W / q) patches of p x q pixels, in raster order
    "channels"    (B, C, H, W) into C / g groups of g neighboring channels, each with all of its positions

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
        """Read the options that both vision transformers share.

        Without a size: 224 x 224 images of 3 channels, or 7 x 7 maps of 512. Raises `BadOption`.
        """
        check_choice(owner, "tokens", kind, ("patches", "channels"))
        default_size, default_channels = (224, 3) if kind == "patches" else (7, 512)
        size = pair(owner, "image_size", default_size if image_size is None else image_size)
        channels = default_channels if channels is None else channels
        check_positive(owner, channels=channels, group_size=group_size)
        patch = pair(owner, "patch_size", patch_size)
        if kind == "patches" and (size[0] % patch[0] or size[1] % patch[1]):
            raise BadOption(
                f"{owner}: image_size={size[0]} x {size[1]} is not divisible by "
                f"patch_size={patch[0]} x {patch[1]}"
            )
        if kind == "channels" and channels % group_size:
            raise BadOption(f"{owner}: channels={channels} is not divisible by group_size={group_size}")
        return cls(owner, kind, size, channels, patch, group_size)

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape in which tokens lie: rows and columns of patches, or one axis of groups."""
        if self.kind == "channels":
            return (self.channels // self.group,)
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    @property
    def count(self) -> int:
        """The number of tokens."""
        rows, *columns = self.grid
        return rows * columns[0] if columns else rows

    @property
    def width(self) -> int:
        """The number of values of a token."""
        if self.kind == "channels":
            return self.group * self.size[0] * self.size[1]
        return self.channels * self.patch[0] * self.patch[1]

    def check(self, x: Tensor) -> None:
        """Raise `BadShape` unless `x` has the one size for which the model was built."""
        check_shape(self.owner, x, "B C H W", C=self.channels, H=self.size[0], W=self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, count, width). A patch lists its pixels, each with all channels."""
        if self.kind == "channels":
            return x.reshape(x.shape[0], self.count, self.width)
        (rows, columns), (height, width) = self.grid, self.patch
        cut = x.reshape(x.shape[0], self.channels, rows, height, columns, width)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], self.count, self.width)


def pair(owner: str, name: str, value: int | Pair) -> Pair:
    """Return height and width of `value`, one number for both or two. Raises `BadOption`."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise BadOption(f"{owner}: {name}={value!r} must be one number, or height and width")
        height, width = value
    else:
        height = width = value
    for extent in (height, width):
        check_positive(owner, **{name: extent})
    return height, width
