"""Scores of additive attention, v^T tanh(q_i + k_j), for a few queries at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.ops import additive_loops
from saccade.ops.loops import run_loop

_BLOCKS = 16  # of keys, whose gradients are computed side by side


def additive_scores(query: Tensor, key: Tensor, direction: Tensor, native: bool = False) -> Tensor:
    """Return e_ij = v^T tanh(q_i + k_j).

    Args:
        query: Queries q, (B, heads, n, D).
        key: Keys k, (B, heads, L, D).
        direction: Weights v, (D,).
        native: Whether to run native loops, which hold no value for each pair and hidden unit.

    Returns:
        Scores, (B, heads, n, L).

    Example:
        >>> import torch
        >>> q, k = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 4, 3)
        >>> additive_scores(q, k, torch.ones(3)).shape
        torch.Size([1, 1, 2, 4])
    """
    if not native:
        return _tanh(query, key) @ direction
    q, k = (x.flatten(0, 1).contiguous() for x in (query, key))
    y = q.new_empty(*q.shape[:2], k.shape[1])
    run_loop(
        additive_loops.scores, len(q) * q.shape[1], _coefficients(q), q, k, direction, y, reassociate=True
    )
    return y.view(*query.shape[:3], -1)


def additive_scores_backward(
    d_scores: Tensor, query: Tensor, key: Tensor, direction: Tensor, native: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the queries, of the keys and of the direction.

    Args:
        d_scores: Gradients of the scores, (B, heads, n, L).
        query: Queries, see `additive_scores`.
        key: Keys.
        direction: Weights.
        native: Whether to run native loops.
    """
    if not native:
        tanh = _tanh(query, key)
        slope = (1 - tanh * tanh) * d_scores.unsqueeze(-1)
        d_direction = torch.einsum("bhijd,bhij->d", tanh, d_scores)
        return slope.sum(3) * direction, slope.sum(2) * direction, d_direction
    q, k, d_y = (x.flatten(0, 1).contiguous() for x in (query, key, d_scores))
    blocks = min(_BLOCKS, k.shape[1])
    d_q, d_k = q.new_zeros(blocks, *q.shape), torch.zeros_like(k)
    of_direction = q.new_zeros(blocks, q.shape[2])
    given = (_coefficients(q), d_y, q, k)
    run_loop(additive_loops.scores_backward, blocks, *given, d_q, d_k, of_direction, reassociate=True)
    d_query, d_key = (d_q.sum(0) * direction).view_as(query), (d_k * direction).view_as(key)
    return d_query, d_key, of_direction.sum(0)


def _coefficients(x: Tensor) -> Tensor:
    return x.new_tensor(additive_loops.TANH)


def _tanh(query: Tensor, key: Tensor) -> Tensor:
    """Return tanh(q_i + k_j): (B, heads, n, D) and (B, heads, L, D) -> (B, heads, n, L, D)."""
    return torch.tanh(query.unsqueeze(3) + key.unsqueeze(2))
