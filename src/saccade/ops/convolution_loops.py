"""Loops of a convolution of a few maps to one, for `run_loop`. A unit is an image.

An image with its zero padding is one line. Each weight multiplies the whole line, shifted by an offset, so
that loops are long for any extent of the map. What runs over the edge of a row lands in places of the result
that nobody reads, and whose gradient is 0. If a map holds a value that is not finite, the gradients of all
weights are NaN.
"""

from __future__ import annotations

from typing import Any


def convolution(start: int, stop: int, offsets: Any, x: Any, weight: Any, y: Any) -> None:
    """Write y_q = sum_dt w_dt x_d,q+t for lines x (B, D, .), weights (D, T) and offsets t (T,)."""
    for b in range(start, stop):
        out = y[b]
        for q in range(out.shape[0]):
            out[q] = 0
        for d in range(x.shape[1]):
            for t in range(offsets.shape[0]):
                line, w = x[b, d, offsets[t] : offsets[t] + out.shape[0]], weight[d, t]
                for q in range(out.shape[0]):
                    out[q] += w * line[q]


def convolution_backward(
    start: int, stop: int, offsets: Any, d_y: Any, x: Any, weight: Any, d_x: Any, d_weight: Any
) -> None:
    """Write the gradients of the lines, and of the weights for each image, (B, D, T)."""
    for b in range(start, stop):
        grad = d_y[b]
        for d in range(x.shape[1]):
            whole = d_x[b, d]
            for q in range(whole.shape[0]):
                whole[q] = 0
            for t in range(offsets.shape[0]):
                line = x[b, d, offsets[t] : offsets[t] + grad.shape[0]]
                out = d_x[b, d, offsets[t] : offsets[t] + grad.shape[0]]
                w, d_weight[b, d, t] = weight[d, t], 0
                total = d_weight[b, d, t]
                for q in range(grad.shape[0]):
                    out[q] += w * grad[q]
                    total += line[q] * grad[q]
                d_weight[b, d, t] = total
