"""Layers of PyTorch and names of axes, by the number of spatial axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from saccade.errors import check_choice

Dims = Literal[1, 2, 3]

#: The axes of features, as `check_shape` and `Example` write them.
AXES: Mapping[int, str] = {1: "B C W", 2: "B C H W", 3: "B C T H W"}

CONV: Mapping[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM: Mapping[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
MAX_POOL: Mapping[int, type[nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d]] = {
    1: nn.MaxPool1d,
    2: nn.MaxPool2d,
    3: nn.MaxPool3d,
}


def check_dims(owner: str, dims: object) -> None:
    """Raise `BadOption` unless `dims` is a number of spatial axes: 1, 2 or 3."""
    check_choice(owner, "dims", dims, tuple(AXES))
