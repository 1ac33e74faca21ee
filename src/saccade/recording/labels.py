"""Labels: the position that each value of a tensor comes from, after an operation that moves values.

A label is the number of a position, -1 for padding, and `_UNKNOWN` for values of several positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_UNKNOWN = -2


def number_positions(shape: torch.Size, channels_last: bool) -> Tensor:
    """The labels of feature maps, equal in all channels."""
    axis = -1 if channels_last else 1
    places = [extent for number, extent in enumerate(shape) if number != axis % len(shape)]
    numbers = torch.arange(math.prod(places), dtype=torch.int32).reshape(places)
    return numbers.unsqueeze(axis).expand(shape)


def replay(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor) -> Any:
    if func is F.pad:
        names = dict(zip(("pad", "mode", "value"), args, strict=False)) | kwargs
        is_constant = names.get("mode", "constant") == "constant"
        return F.pad(labels, **(names | {"value": -1} if is_constant else names))
    return func(labels, *args, **kwargs)


def replay_part(
    number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor
) -> Tensor:
    part: Tensor = replay(func, args, kwargs, labels)[number]
    return part


def expand_labels(shape: torch.Size, labels: Tensor) -> Tensor:
    return labels.expand(shape)


def row_labels(shape: torch.Size, labels: Tensor) -> Tensor:
    """The labels of sums over the last axis, such as those of a linear layer of the channels."""
    return labels[..., :1].clone().expand(shape) if is_constant(labels, -1) else _unknown(shape)


def channel_labels(shape: torch.Size, steps: Sequence[int], labels: Tensor) -> Tensor:
    """The labels of a convolution, whose window is centered at every position, or those with a step."""
    taken = labels[(slice(None), slice(1), *(slice(None, None, step) for step in steps))]
    return taken.expand(shape) if is_constant(labels, 1) else _unknown(shape)


def pooled_labels(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor) -> Tensor:
    """The labels of a largest value: the last place stands for all."""
    if not is_constant(labels, 1):
        return _unknown(shape)
    largest: Tensor = F.max_pool2d(labels[:, :1].double(), *args, **kwargs)
    return largest.to(labels.dtype).expand(shape)


def unfolded_labels(
    shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor
) -> Tensor:
    """The labels of windows that are columns; padding adds zeros, so the labels count from 1 meanwhile."""
    if not is_constant(labels, 1):
        return _unknown(shape)
    columns = F.unfold(labels[:, :1].double() + 1, *args, **kwargs) - 1
    expanded = columns.to(labels.dtype).unsqueeze(1).expand(-1, labels.shape[1], -1, -1)
    return expanded.reshape(shape)


def column_labels(shape: torch.Size, labels: Tensor) -> Tensor:
    return labels[..., :1, :].expand(shape) if is_constant(labels, -2) else _unknown(shape)


def mixed_labels(shape: torch.Size, queries: Tensor, values: Tensor) -> Tensor:
    """The labels of the output of an attention: those of the queries or, between channels, of the values."""
    rows = row_labels(shape, queries)
    return column_labels(shape, values) if bool((rows[..., 0] == _UNKNOWN).any()) else rows


def _unknown(shape: torch.Size) -> Tensor:
    return torch.full((1,), _UNKNOWN, dtype=torch.int32).expand(shape)


def einsum_labels(term: str, result: str, shape: torch.Size, labels: Tensor) -> Tensor:
    """The labels of an operand on the axes of the result; sums keep the first value."""
    kept = [axis for axis in term if axis in result]
    first = labels[tuple(slice(None) if axis in result else slice(1) for axis in term)]
    if bool((labels != first).any()):
        return _unknown(shape)
    first = first[tuple(slice(None) if axis in result else 0 for axis in term)]
    first = first.permute([kept.index(axis) for axis in result if axis in kept])
    return first[tuple(slice(None) if axis in kept else None for axis in result)].expand(shape)


def agreed_labels(a: Tensor, b: Tensor) -> Tensor:
    """The labels of a sum of two tensors, whose values have to come from the same places."""
    compact = a.stride(-1) == b.stride(-1) == 0
    is_equal = torch.equal(a[..., 0], b[..., 0]) if compact else torch.equal(a, b)
    return (b if b.stride(-1) == 0 else a) if is_equal else _unknown(a.shape)


def is_constant(labels: Tensor, axis: int) -> bool:
    """Return whether all labels along an axis are the same; expanded ones are not compared."""
    return labels.stride(axis) == 0 or bool((labels == labels.narrow(axis, 0, 1)).all())
