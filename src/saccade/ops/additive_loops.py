"""Loops of additive attention, for `run_loop`.

tanh(z) is z P(z^2) / Q(z^2) for polynomials of degree 4, to 4e-7 of its value in float32: unlike a call, it
compiles to vector instructions. z is limited to [-9, 9], where float32 rounds tanh to 1. NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

#: Coefficients of P and of Q, fitted to the smallest largest relative error on [0, 9], and the limit.
TANH = (
    *(9.99999980e-01, 1.33810388e-01, 3.49560339e-03, 2.06093189e-05, 1.33549592e-08),
    *(1.00000000e00, 4.67143544e-01, 2.58770411e-02, 3.28565917e-04, 7.77668669e-07),
    9.0,
)


def scores(start: int, stop: int, tanh: Any, q: Any, k: Any, direction: Any, y: Any) -> None:
    """Write y_gij = sum_d v_d tanh(q_gid + k_gjd). A unit is a query.

    Args:
        start: First unit.
        stop: Unit after the last.
        tanh: `TANH`.
        q: Queries, (G, n, D).
        k: Keys, (G, L, D).
        direction: Weights v, (D,).
        y: Scores, (G, n, L).
    """
    p0, p1, p2, p3, p4, q0, q1, q2, q3, q4, limit = tanh
    for unit in range(start, stop):
        g, i = unit // q.shape[1], unit % q.shape[1]
        query = q[g, i]
        for j in range(k.shape[1]):
            key = k[g, j]
            y[g, i, j] = 0
            total = y[g, i, j]
            for d in range(query.shape[0]):
                z = query[d] + key[d]
                z = limit if z > limit else z
                z = -limit if z < -limit else z
                u = z * z
                p = p0 + u * (p1 + u * (p2 + u * (p3 + u * p4)))
                total += direction[d] * (z * p / (q0 + u * (q1 + u * (q2 + u * (q3 + u * q4)))))
            y[g, i, j] = total


def scores_backward(
    start: int,
    stop: int,
    tanh: Any,
    d_y: Any,
    q: Any,
    k: Any,
    d_q: Any,
    d_k: Any,
    d_direction: Any,
) -> None:
    """Add the gradients of the sum of d_y_gij tanh(q_gid + k_gjd) to zeros. A unit is a block of keys.

    Args:
        start: First unit.
        stop: Unit after the last.
        tanh: `TANH`.
        d_y: Gradients of the scores, (G, n, L).
        q: Queries, (G, n, D).
        k: Keys, (G, L, D).
        d_q: sum_j d_y_gij (1 - t_gijd^2) for each block, (blocks, G, n, D); t is the tanh.
        d_k: sum_i d_y_gij (1 - t_gijd^2), (G, L, D).
        d_direction: sum_gij d_y_gij t_gijd for each block, (blocks, D).
    """
    p0, p1, p2, p3, p4, q0, q1, q2, q3, q4, limit = tanh
    blocks, length = d_q.shape[0], k.shape[1]
    for unit in range(start, stop):
        of_direction = d_direction[unit]
        for g in range(q.shape[0]):
            first, last = length * unit // blocks, length * (unit + 1) // blocks
            for i in range(q.shape[1]):
                query, of_query = q[g, i], d_q[unit, g, i]
                for j in range(first, last):
                    key, of_key, score = k[g, j], d_k[g, j], d_y[g, i, j]
                    for d in range(of_direction.shape[0]):
                        z = query[d] + key[d]
                        z = limit if z > limit else z
                        z = -limit if z < -limit else z
                        u = z * z
                        p = p0 + u * (p1 + u * (p2 + u * (p3 + u * p4)))
                        t = z * p / (q0 + u * (q1 + u * (q2 + u * (q3 + u * q4))))
                        of_direction[d] += score * t
                        slope = score - score * t * t
                        of_query[d] += slope
                        of_key[d] += slope
