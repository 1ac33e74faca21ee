"""Triton kernels of the gates, for `run_kernel`: each value of a map is read once.

Maps are (B, C, P) with any strides. A program loads tiles of channels x positions of one image, of which the
lengths are powers of 2, and computes in the type `real`. Sums that several programs contribute to are written
as parts, one for each program, since the order of atomic additions would change the bits.

As in `torch.max`, the index of a maximum is the first among equal values, and a NaN exceeds any number.
"""

# Triton compiles these functions. Values of the type `tl.constexpr` are known at compile time; numbers of
# positions are 64-bit integers, since a map may have more than 2^31 values.

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):  # PyTorch for CPUs does not bring Triton: then no kernel runs
    import triton.language as tl


def statistics(
    x: tl.tensor,
    scale: tl.tensor,
    mean: tl.tensor,
    maximum: tl.tensor,
    index: tl.tensor,
    kept: tl.tensor,
    reduced: tl.tensor,
    part: tl.tensor,
    parts: tl.tensor,
    x_b: tl.tensor,
    x_kept: tl.tensor,
    x_reduced: tl.tensor,
    is_scaled: tl.constexpr,
    real: tl.constexpr,
    block_kept: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write mean, maximum and its index over one axis of x, or of scale * x, (B, `kept`, `parts`) each.

    A part has `part` values of the axis, and its mean is divided by the length of the whole axis. The scale
    has one value for each image and each index of the axis.
    """
    unit = tl.program_id(0).to(tl.int64)
    n, unit = unit % parts, unit // parts
    blocks = tl.cdiv(kept, block_kept)
    b = unit // blocks
    k = unit % blocks * block_kept + tl.arange(0, block_kept)
    lane = tl.arange(0, block)
    first = n * part
    last = tl.minimum(first + part, reduced)
    total = tl.zeros([block_kept, block], real)
    most = tl.full([block_kept, block], float("-inf"), real)
    at = tl.zeros([block_kept, block], tl.int64) + (first + lane)[None, :]
    rows = x + b * x_b + k[:, None] * x_kept
    for start in range(first, last, block):
        r = start + lane.to(tl.int64)
        mask = (k < kept)[:, None] & (r < last)[None, :]
        value = tl.load(rows + r[None, :] * x_reduced, mask=mask, other=0.0).to(real)
        if is_scaled:
            weight = tl.load(scale + b * reduced + r, mask=r < last, other=0.0).to(real)
            value = (value * weight[None, :]).to(x.dtype.element_ty).to(real)
        total += value
        is_larger = mask & ((value > most) | ((value != value) & (most == most)))
        most = tl.where(is_larger, value, most)
        at = tl.where(is_larger, r[None, :], at)
    is_nan = most != most
    has_nan = tl.max(is_nan.to(tl.int32), 1) > 0
    largest = tl.max(tl.where(is_nan, float("-inf"), most), 1)
    is_largest = tl.where(has_nan[:, None], is_nan, most == largest[:, None]) & (at < last)
    nearest = tl.min(tl.where(is_largest, at, reduced), 1)
    out = (b * kept + k) * parts + n
    tl.store(mean + out, tl.sum(total, 1) / reduced, mask=k < kept)
    tl.store(maximum + out, tl.where(has_nan, float("nan"), largest), mask=k < kept)
    tl.store(index + out, nearest, mask=k < kept)


def channel_statistics_backward(
    d_mean: tl.tensor,
    d_maximum: tl.tensor,
    index: tl.tensor,
    x: tl.tensor,
    d_scale: tl.tensor,
    channels: tl.tensor,
    positions: tl.tensor,
    part: tl.tensor,
    parts: tl.tensor,
    x_b: tl.tensor,
    x_c: tl.tensor,
    x_p: tl.tensor,
    real: tl.constexpr,
    block_c: tl.constexpr,
    block_p: tl.constexpr,
) -> None:
    """Write the gradient of the scale for each block of positions, (B, blocks, C).

    d_mean is the gradient of the mean divided by C. A program has `part` channels.
    """
    unit = tl.program_id(0).to(tl.int64)
    n, unit = unit % parts, unit // parts
    across = tl.cdiv(positions, block_p)
    b = unit // across
    p = unit % across * block_p + tl.arange(0, block_p)
    place = b * positions + p
    each = tl.load(d_mean + place, mask=p < positions, other=0.0).to(real)
    most = tl.load(d_maximum + place, mask=p < positions, other=0.0).to(real)
    at = tl.load(index + place, mask=p < positions, other=0)
    last = tl.minimum(n * part + part, channels)
    for start in range(n * part, last, block_c):
        c = start + tl.arange(0, block_c).to(tl.int64)
        mask = (c < last)[:, None] & (p < positions)[None, :]
        value = tl.load(x + b * x_b + c[:, None] * x_c + p[None, :] * x_p, mask=mask, other=0.0).to(real)
        d_value = tl.where(at[None, :] == c[:, None], (each + most)[None, :], each[None, :])
        tl.store(d_scale + unit * channels + c, tl.sum(d_value * value, 1), mask=c < last)


def map_gradient(
    d_y: tl.tensor,
    scale: tl.tensor,
    place: tl.tensor,
    d_row_mean: tl.tensor,
    d_row_maximum: tl.tensor,
    row_index: tl.tensor,
    d_mean: tl.tensor,
    d_maximum: tl.tensor,
    index: tl.tensor,
    d_x: tl.tensor,
    channels: tl.tensor,
    positions: tl.tensor,
    dy_b: tl.tensor,
    dy_c: tl.tensor,
    dy_p: tl.tensor,
    dx_b: tl.tensor,
    dx_c: tl.tensor,
    dx_p: tl.tensor,
    has_scale: tl.constexpr,
    has_place: tl.constexpr,
    has_row_mean: tl.constexpr,
    has_row_maximum: tl.constexpr,
    has_statistics: tl.constexpr,
    real: tl.constexpr,
    block_c: tl.constexpr,
    block_p: tl.constexpr,
) -> None:
    """Write the gradient of x from that of a gate of it, and those of its statistics."""
    unit = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(positions, block_p)
    p = unit % across * block_p + tl.arange(0, block_p)
    unit = unit // across
    down = tl.cdiv(channels, block_c)
    b = unit // down
    c = unit % down * block_c + tl.arange(0, block_c)
    row, column = b * channels + c, b * positions + p
    mask = (c < channels)[:, None] & (p < positions)[None, :]
    grad = tl.load(d_y + b * dy_b + c[:, None] * dy_c + p[None, :] * dy_p, mask=mask, other=0.0).to(real)
    if has_place:
        grad = grad * tl.load(place + column, mask=p < positions, other=0.0).to(real)[None, :]
    if has_statistics:
        each = tl.load(d_mean + column, mask=p < positions, other=0.0).to(real)
        most = tl.load(d_maximum + column, mask=p < positions, other=0.0).to(real)
        at = tl.load(index + column, mask=p < positions, other=0)
        grad += tl.where(at[None, :] == c[:, None], (each + most)[None, :], each[None, :])
    if has_scale:
        grad = grad * tl.load(scale + row, mask=c < channels, other=0.0).to(real)[:, None]
    if has_row_mean:
        grad += tl.load(d_row_mean + row, mask=c < channels, other=0.0).to(real)[:, None]
    if has_row_maximum:
        largest = tl.load(d_row_maximum + row, mask=c < channels, other=0.0).to(real)[:, None]
        nearest = tl.load(row_index + row, mask=c < channels, other=0)
        grad = tl.where(nearest[:, None] == p[None, :], grad + largest, grad)
    tl.store(d_x + b * dx_b + c[:, None] * dx_c + p[None, :] * dx_p, grad, mask=mask)


def gate(
    x: tl.tensor,
    scale: tl.tensor,
    place: tl.tensor,
    y: tl.tensor,
    channels: tl.tensor,
    positions: tl.tensor,
    x_b: tl.tensor,
    x_c: tl.tensor,
    x_p: tl.tensor,
    y_b: tl.tensor,
    y_c: tl.tensor,
    y_p: tl.tensor,
    real: tl.constexpr,
    block_c: tl.constexpr,
    block_p: tl.constexpr,
) -> None:
    """Write y = place * (scale * x)."""
    unit = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(positions, block_p)
    p = unit % across * block_p + tl.arange(0, block_p)
    unit = unit // across
    down = tl.cdiv(channels, block_c)
    b = unit // down
    c = unit % down * block_c + tl.arange(0, block_c)
    mask = (c < channels)[:, None] & (p < positions)[None, :]
    weight = tl.load(scale + b * channels + c, mask=c < channels, other=0.0).to(real)
    of_place = tl.load(place + b * positions + p, mask=p < positions, other=0.0).to(real)
    value = tl.load(x + b * x_b + c[:, None] * x_c + p[None, :] * x_p, mask=mask, other=0.0).to(real)
    out = y + b * y_b + c[:, None] * y_c + p[None, :] * y_p
    tl.store(out, value * weight[:, None] * of_place[None, :], mask=mask)


def gate_backward(
    d_y: tl.tensor,
    x: tl.tensor,
    scale: tl.tensor,
    place: tl.tensor,
    d_x: tl.tensor,
    d_scale: tl.tensor,
    d_place: tl.tensor,
    channels: tl.tensor,
    positions: tl.tensor,
    part: tl.tensor,
    parts: tl.tensor,
    dy_b: tl.tensor,
    dy_c: tl.tensor,
    dy_p: tl.tensor,
    x_b: tl.tensor,
    x_c: tl.tensor,
    x_p: tl.tensor,
    dx_b: tl.tensor,
    dx_c: tl.tensor,
    dx_p: tl.tensor,
    has_place: tl.constexpr,
    has_x: tl.constexpr,
    real: tl.constexpr,
    block_c: tl.constexpr,
    block_p: tl.constexpr,
) -> None:
    """Write the gradients of x, of the scale, (B, blocks, C), and of the places' weights, (B, `parts`, P).

    The last two are parts of sums: one for each block of positions, and one for `part` channels each.
    """
    unit = tl.program_id(0).to(tl.int64)
    n, unit = unit % parts, unit // parts
    across = tl.cdiv(positions, block_p)
    b = unit // across
    p = unit % across * block_p + tl.arange(0, block_p)
    if has_place:
        of_place = tl.load(place + b * positions + p, mask=p < positions, other=0.0).to(real)
    total = tl.zeros([block_p], real)
    last = tl.minimum(n * part + part, channels)
    for start in range(n * part, last, block_c):
        c = start + tl.arange(0, block_c).to(tl.int64)
        mask = (c < last)[:, None] & (p < positions)[None, :]
        weight = tl.load(scale + b * channels + c, mask=c < last, other=0.0).to(real)
        value = tl.load(x + b * x_b + c[:, None] * x_c + p[None, :] * x_p, mask=mask, other=0.0).to(real)
        grad = tl.load(d_y + b * dy_b + c[:, None] * dy_c + p[None, :] * dy_p, mask=mask, other=0.0).to(real)
        if has_place:
            total += tl.sum(grad * (value * weight[:, None]), 0)
            grad = grad * of_place[None, :]
        if has_x:
            out = d_x + b * dx_b + c[:, None] * dx_c + p[None, :] * dx_p
            tl.store(out, grad * weight[:, None], mask=mask)
        tl.store(d_scale + unit * channels + c, tl.sum(grad * value, 1), mask=c < last)
    if has_place:
        tl.store(d_place + (b * parts + n) * positions + p, total, mask=p < positions)
