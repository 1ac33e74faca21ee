"""Gates and their statistics in Triton kernels on a GPU: the kernels of the operators in `native_gates`.

Maps are (B, C, P) with any strides, in float32, bfloat16 or float16; sums are in float32. Results have the
memory layout of the map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops import gate_kernels
from saccade.ops.kernels import run_kernel

_TILE = 2048  # values of a tile
_LINE = 128  # values of a tile along the axis of the smallest stride
_PROGRAMS = 512  # programs that keep a large GPU busy, where the map is large enough


def place_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the positions of x, (B, C) each."""
    return _statistics(x, None, kept=1, index=torch.int64)


def channel_statistics(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the channels of scale * x, (B, P) each."""
    return _statistics(x, scale.contiguous(), kept=2, index=torch.int32)


def channel_statistics_backward(d_mean: Tensor, d_maximum: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the scale, (B, C). d_mean is divided by C."""
    batch, channels, positions = x.shape
    block_c, block_p = _tile(x)
    blocks = _blocks(positions, block_p)
    part, parts = _split(batch * blocks, channels, block_c)
    d_scale = x.new_empty(batch, blocks, channels, dtype=_real(x.dtype))
    run_kernel(
        gate_kernels.channel_statistics_backward,
        batch * blocks * parts,
        *(d.contiguous() for d in (d_mean, d_maximum, index)),
        *(x, d_scale, channels, positions, part, parts, *x.stride()),
        **_constants(x),
    )
    return d_scale.sum(1).to(x.dtype)


def map_gradient(d_y: Tensor, *parts: Tensor | None) -> Tensor:
    """Return the gradient of x, see `native_gates.map_gradient`."""
    d_x, (block_c, block_p) = torch.empty_like(d_y), _tile(d_y)
    batch, channels, positions = d_y.shape
    has = [part is not None for part in parts]
    run_kernel(
        gate_kernels.map_gradient,
        batch * _blocks(channels, block_c) * _blocks(positions, block_p),
        *(d_y, *(d_y if part is None else part.contiguous() for part in parts), d_x, channels, positions),
        *(*d_y.stride(), *d_x.stride()),
        has_scale=has[0],
        has_place=has[1],
        has_row_mean=has[2],
        has_row_maximum=has[3],
        has_statistics=has[5],
        **_constants(d_y),
    )
    return d_x


def gate(x: Tensor, scale: Tensor, place: Tensor) -> Tensor:
    """Return y = place * (scale * x), for weights of the channels (B, C) and of the positions (B, P)."""
    y, (block_c, block_p) = torch.empty_like(x), _tile(x)
    batch, channels, positions = x.shape
    run_kernel(
        gate_kernels.gate,
        batch * _blocks(channels, block_c) * _blocks(positions, block_p),
        *(x, scale.contiguous(), place.contiguous(), y, channels, positions, *x.stride(), *y.stride()),
        **_constants(x),
    )
    return y


def gate_backward(d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the scale and of the weights of the positions."""
    d_x, d_scale, d_place = _gate_backward(d_y, x, scale, place)
    return d_x, d_scale, d_place.sum(1).to(x.dtype)


def scale_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weights of the channels."""
    return _gate_backward(d_y, x, weight, None)[:2]


def weights_backward(d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights of `gate` alone. Without `place`, the second tensor is empty."""
    _, d_scale, d_place = _gate_backward(d_y, x, scale, place, has_x=False)
    return d_scale, d_place.sum(1).to(x.dtype) if place is not None else x.new_empty(0)


def _gate_backward(
    d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor | None, has_x: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x and of the scale, and the parts of that of the positions' weights."""
    batch, channels, positions = x.shape
    block_c, block_p = _tile(x)
    blocks = _blocks(positions, block_p)
    part, parts = _split(batch * blocks, channels, block_c)
    d_x, real = torch.empty_like(x) if has_x else x, _real(x.dtype)
    d_scale = x.new_empty(batch, blocks, channels, dtype=real)
    d_place = x.new_empty(batch, parts, positions if place is not None else 0, dtype=real)
    run_kernel(
        gate_kernels.gate_backward,
        batch * blocks * parts,
        *(d_y, x, scale.contiguous(), scale if place is None else place.contiguous(), d_x, d_scale, d_place),
        *(channels, positions, part, parts, *d_y.stride(), *x.stride(), *d_x.stride()),
        has_place=place is not None,
        has_x=has_x,
        **_constants(x),
    )
    return d_x, d_scale.sum(1).to(x.dtype), d_place


def _statistics(
    x: Tensor, scale: Tensor | None, kept: int, index: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the axis, 1 or 2, that is not kept."""
    tile, reduced, real = (0, *_tile(x)), 3 - kept, _real(x.dtype)
    length, rows = x.shape[reduced], len(x) * _blocks(x.shape[kept], tile[kept])
    part, parts = _split(rows, length, tile[reduced])
    mean, maximum, at = (
        x.new_empty(len(x), x.shape[kept], parts, dtype=dtype)
        for dtype in (real if parts > 1 else x.dtype, x.dtype, index)
    )
    run_kernel(
        gate_kernels.statistics,
        rows * parts,
        *(x, x if scale is None else scale, mean, maximum, at, x.shape[kept], length, part, parts),
        *(x.stride(0), x.stride(kept), x.stride(reduced)),
        is_scaled=scale is not None,
        real=_constants(x)["real"],
        block_kept=tile[kept],
        block=tile[reduced],
    )
    if parts == 1:
        return mean.squeeze(2), maximum.squeeze(2), at.squeeze(2)
    maximum, which = maximum.max(2)
    return mean.sum(2).to(x.dtype), maximum, at.gather(2, which.unsqueeze(2)).squeeze(2)


def _tile(x: Tensor) -> tuple[int, int]:
    """Return the channels and the positions of a tile, which is long where the values are neighbors."""
    axes = (2, 1) if x.stride(2) <= x.stride(1) else (1, 2)
    first = min(_power_of_2(x.shape[axes[0]]), _LINE)
    second = min(_power_of_2(x.shape[axes[1]]), _TILE // first)
    return (second, first) if axes[0] == 2 else (first, second)


def _constants(x: Tensor) -> dict[str, Any]:
    """Return the type of sums and the tile, as a kernel takes them."""
    import triton.language as tl

    block_c, block_p = _tile(x)
    real = getattr(tl, str(_real(x.dtype)).removeprefix("torch."))
    return {"real": real, "block_c": block_c, "block_p": block_p}


def _split(programs: int, length: int, block: int) -> tuple[int, int]:
    """Return the length and the number of the parts into which `programs` times as many programs divide."""
    part = block * _blocks(_blocks(length, block), max(1, _PROGRAMS // programs))
    return part, _blocks(length, part)


def _blocks(length: int, block: int) -> int:
    return -(-length // block)


def _power_of_2(length: int) -> int:
    """Return the smallest power of 2 that is not below a length."""
    return 1 << (length - 1).bit_length()


def _real(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32
