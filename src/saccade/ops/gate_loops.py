"""Loops of the gates, for `run_loop`: each value of a map is read once.

Maps are (B, C, P), of P positions. A unit is an image or a row (b, c) of P positions, or a block of positions
of one image, short enough that a row of it stays in the cache while the channels pass.

As in `torch.max`, the index of a maximum is the first among equal values, and a NaN exceeds any number.
"""

# Numba compiles these functions; their arguments are arrays. A local name for a part of a row lets the
# compiler see a loop from 0 to its length, which it turns into vector instructions. A sum starts with a 0
# that was written to memory and read again, and so has the type of the map: a literal would make it float64.

from __future__ import annotations

from typing import Any

_PART = 256  # positions that are searched again for the place of a maximum
_LONG_PART = 4096  # values of one sum in float32; the sums are added


def place_statistics(
    start: int,
    stop: int,
    integer: Any,
    magnitude: int,
    x: Any,
    bits: Any,
    mean: Any,
    maximum: Any,
    index: Any,
) -> None:
    """Write mean, maximum and its index for the rows of x, (N, P).

    `bits` is x as integers of type `integer`, of which `magnitude` is the largest. Numbers have the order of
    their bits, which are sign and magnitude, and the maximum of integers is one vector instruction. A row
    with a NaN, of which the sum is NaN, is searched again.
    """
    positions, magnitude, none = x.shape[1], integer(magnitude), integer(_PART)
    smallest = integer(-1 - magnitude)
    for n in range(start, stop):
        row, mean[n] = x[n], 0
        zero = mean[n]
        total, most, at = zero, smallest, 0
        for first in range(0, positions, _PART):
            values, keys = x[n, first : first + _PART], bits[n, first : first + _PART]
            part, largest = zero, smallest
            for p in range(values.shape[0]):
                part += values[p]
                key = keys[p] if keys[p] >= 0 else integer(-(keys[p] & magnitude))
                largest = integer(max(largest, key))
            total += part
            if largest > most:
                most, at = largest, first
        if total == total:
            keys, nearest = bits[n, at : at + _PART], none
            for p in range(keys.shape[0]):
                key = keys[p] if keys[p] >= 0 else integer(-(keys[p] & magnitude))
                nearest = integer(min(nearest, integer(p) if key == most else none))
            at += nearest
        else:
            at = 0
            for p in range(1, positions):
                if row[at] == row[at] and not row[p] <= row[at]:
                    at = p
        mean[n], maximum[n], index[n] = total / positions, row[at], at


def channel_statistics(
    start: int, stop: int, block: int, x: Any, scale: Any, mean: Any, maximum: Any, index: Any
) -> None:
    """Write mean, maximum and its index over the channels of scale * x, for blocks of positions."""
    channels, blocks = x.shape[1], -(-x.shape[2] // block)
    for unit in range(start, stop):
        b, first = unit // blocks, unit % blocks * block
        total, most = mean[b, first : first + block], maximum[b, first : first + block]
        at = index[b, first : first + block]
        row, s = x[b, 0, first : first + block], scale[b, 0]
        for p in range(row.shape[0]):
            value = row[p] * s
            total[p], most[p], at[p] = value, value, 0
        for c in range(1, channels):
            row, s = x[b, c, first : first + block], scale[b, c]
            for p in range(row.shape[0]):
                value = row[p] * s
                larger = (not value <= most[p]) & (most[p] == most[p])
                total[p] += value
                most[p] = value if larger else most[p]
                at[p] = c if larger else at[p]
        for p in range(total.shape[0]):
            total[p] /= channels


def channel_statistics_backward(
    start: int,
    stop: int,
    block: int,
    integer: Any,
    x: Any,
    d_mean: Any,
    d_maximum: Any,
    index: Any,
    d_scale: Any,
) -> None:
    """Write the gradient of the scale for each block of positions, (B, blocks, C).

    d_mean is the gradient of the mean divided by C. `integer` is the type of the index.
    """
    channels, blocks = x.shape[1], -(-x.shape[2] // block)
    for unit in range(start, stop):
        b, number = unit // blocks, unit % blocks
        first = number * block
        d_most, at = d_maximum[b, first : first + block], index[b, first : first + block]
        d_total = d_mean[b, first : first + block]
        for c in range(channels):
            row, channel = x[b, c, first : first + block], integer(c)
            d_scale[b, number, c] = 0
            zero = d_scale[b, number, c]
            total = zero
            for p in range(row.shape[0]):
                total += (d_total[p] + (d_most[p] if at[p] == channel else zero)) * row[p]
            d_scale[b, number, c] = total


def gate(start: int, stop: int, x: Any, scale: Any, place: Any, y: Any) -> None:
    """Write y = place * (scale * x), row by row."""
    channels = x.shape[1]
    for unit in range(start, stop):
        b, c = unit // channels, unit % channels
        row, out, weights, s = x[b, c], y[b, c], place[b], scale[b, c]
        for p in range(row.shape[0]):
            out[p] = row[p] * s * weights[p]


def gate_backward(
    start: int,
    stop: int,
    block: int,
    d_y: Any,
    x: Any,
    scale: Any,
    place: Any,
    d_x: Any,
    d_scale: Any,
    d_place: Any,
) -> None:
    """Write the gradients of x, of the scale for each block, (B, blocks, C), and of the places' weights."""
    channels, blocks = x.shape[1], -(-x.shape[2] // block)
    for unit in range(start, stop):
        b, number = unit // blocks, unit % blocks
        first = number * block
        weights, d_weights = place[b, first : first + block], d_place[b, first : first + block]
        for p in range(d_weights.shape[0]):
            d_weights[p] = 0
        for c in range(channels):
            row, grad = x[b, c, first : first + block], d_y[b, c, first : first + block]
            out, s = d_x[b, c, first : first + block], scale[b, c]
            d_scale[b, number, c] = 0
            total = d_scale[b, number, c]
            for p in range(row.shape[0]):
                d_scaled = grad[p] * weights[p]
                out[p] = d_scaled * s
                total += d_scaled * row[p]
                d_weights[p] += grad[p] * (row[p] * s)
            d_scale[b, number, c] = total


def scale_backward(start: int, stop: int, d_y: Any, x: Any, scale: Any, d_x: Any, d_scale: Any) -> None:
    """Write the gradients of x and of the scale for rows of scale * x, (N, P)."""
    for n in range(start, stop):
        s, d_scale[n] = scale[n], 0
        zero = d_scale[n]
        for first in range(0, x.shape[1], _LONG_PART):
            row, grad = x[n, first : first + _LONG_PART], d_y[n, first : first + _LONG_PART]
            out, total = d_x[n, first : first + _LONG_PART], zero
            for p in range(row.shape[0]):
                out[p] = grad[p] * s
                total += grad[p] * row[p]
            d_scale[n] += total


def weights_backward(
    start: int, stop: int, block: int, d_y: Any, x: Any, scale: Any, place: Any, d_scale: Any, d_place: Any
) -> None:
    """Write the gradients of the scale for each block, (B, blocks, C), and of the places' weights."""
    channels, blocks = x.shape[1], -(-x.shape[2] // block)
    for unit in range(start, stop):
        b, number = unit // blocks, unit % blocks
        first = number * block
        weights, d_weights = place[b, first : first + block], d_place[b, first : first + block]
        for p in range(d_weights.shape[0]):
            d_weights[p] = 0
        for c in range(channels):
            row, grad, s = x[b, c, first : first + block], d_y[b, c, first : first + block], scale[b, c]
            d_scale[b, number, c] = 0
            total = d_scale[b, number, c]
            for p in range(row.shape[0]):
                product = grad[p] * row[p]
                total += weights[p] * product
                d_weights[p] += product * s
            d_scale[b, number, c] = total


def row_products(start: int, stop: int, d_y: Any, x: Any, d_scale: Any) -> None:
    """Write the gradient of the scale for rows of scale * x, (N, P)."""
    for n in range(start, stop):
        d_scale[n] = 0
        zero = d_scale[n]
        for first in range(0, x.shape[1], _LONG_PART):
            row, grad = x[n, first : first + _LONG_PART], d_y[n, first : first + _LONG_PART]
            total = zero
            for p in range(row.shape[0]):
                total += grad[p] * row[p]
            d_scale[n] += total


def row_gradient(
    start: int, stop: int, d_y: Any, scale: Any, each: Any, most: Any, index: Any, d_x: Any
) -> None:
    """Write scale * d_y + each for the rows of d_x, (B, C, P), and add `most` at the index of each row."""
    channels = d_y.shape[1]
    for unit in range(start, stop):
        b, c = unit // channels, unit % channels
        grad, out, s, e = d_y[b, c], d_x[b, c], scale[b, c], each[b, c]
        for p in range(grad.shape[0]):
            out[p] = grad[p] * s + e
        out[index[b, c]] += most[b, c]


def map_gradient(
    start: int,
    stop: int,
    integer: Any,
    d_y: Any,
    scale: Any,
    each: Any,
    most: Any,
    index: Any,
    place: Any,
    d_mean: Any,
    d_maximum: Any,
    at: Any,
    d_x: Any,
) -> None:
    """Write the gradient of x: that of `row_gradient`, of a gate with weights of positions and of statistics.

    The gradients of statistics over channels, d_mean and d_maximum, are those of scale * x, (B, P).
    """
    channels = d_y.shape[1]
    for unit in range(start, stop):
        b, c = unit // channels, unit % channels
        grad, out, s, e = d_y[b, c], d_x[b, c], scale[b, c], each[b, c]
        weights, total, largest, where = place[b], d_mean[b], d_maximum[b], at[b]
        channel, out[0] = integer(c), 0
        zero = out[0]
        for p in range(grad.shape[0]):
            d_scaled = grad[p] * weights[p] + total[p] + (largest[p] if where[p] == channel else zero)
            out[p] = d_scaled * s + e
        out[index[b, c]] += most[b, c]
