"""Logits of axial attention, and their batch norm without the maps of the single terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Statistics = tuple[Tensor, Tensor]  # mean and variance, (heads,) each


def axial_logits(
    query: Tensor, key: Tensor, query_position: Tensor, key_position: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return a_1 q_i . k_j + a_2 q_i . r_ij + a_3 k_j . s_ji + c, with the factors of each head.

    The terms are added without being held one by one, in float32 or higher precision.

    Args:
        query: Queries q, (B, heads, D, L), of L positions in each of B lines.
        key: Keys k, (B, heads, D, L).
        query_position: Vectors r of the pairs of positions, (D, L, L).
        key_position: Vectors s of the pairs of positions, (D, L, L).
        scale: Factors a of the terms, (3, heads); see `logit_normalization`.
        shift: Summand c, (heads,).

    Returns:
        Logits, (B, heads, L, L).

    Example:
        >>> import torch
        >>> q, r = torch.randn(6, 2, 4, 5), torch.randn(4, 5, 5)
        >>> axial_logits(q, q, r, r, torch.ones(3, 2), torch.zeros(2)).shape
        torch.Size([6, 2, 5, 5])
    """
    q, k, r, s = _at_least_float32(query, key, query_position, key_position)
    of_qk, of_qr, of_ks = scale.to(q.dtype)[..., None, None]
    logits = (q * of_qk).mT @ k + shift.to(q.dtype)[:, None, None]
    logits = logits.add_(_position_logits(q * of_qr, r))
    total: Tensor = logits.add_(_position_logits(k * of_ks, s).mT)
    return total


def logit_normalization(
    query: Tensor, key: Tensor, query_position: Tensor, key_position: Tensor, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Return the factors (3, heads) and the summand (heads,) by which batch norm acts on the terms of logits.

    The terms are those of `axial_logits`, each normalized in each head, and added. Their batch statistics
    follow from second moments of the factors. In training, the running statistics are updated.

    Args:
        query: Queries q, (B, heads, D, L), of L positions in each of B lines.
        key: Keys k, (B, heads, D, L).
        query_position: Vectors r of the pairs of positions, (D, L, L).
        key_position: Vectors s of the pairs of positions, (D, L, L).
        norm: Batch norm of the 3 * heads channels: the terms one after the other.
    """
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None:
        q, k, r, s = _at_least_float32(query, key, query_position, key_position)
        terms = (_product_statistics(q, k), _position_statistics(q, r), _position_statistics(k, s))
        mean, variance = (torch.cat(parts) for parts in zip(*terms, strict=True))
        _update(norm, mean.detach(), variance.detach(), q.shape[0] * q.shape[3] ** 2)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return scale.unflatten(0, (3, -1)), shift.unflatten(0, (3, -1)).sum(0)


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _position_logits(x: Tensor, position: Tensor) -> Tensor:
    """Return x_i . position_ij, (B, heads, L, L)."""
    products = x.permute(3, 0, 1, 2).flatten(1, 2) @ position.transpose(0, 1)
    by_line: Tensor = products.unflatten(1, x.shape[:2])
    return by_line.permute(1, 2, 0, 3)


def _product_statistics(q: Tensor, k: Tensor) -> Statistics:
    """Return mean and variance of q_i . k_j over lines, i and j."""
    count = q.shape[0] * q.shape[3] ** 2
    mean = (q.sum(3) * k.sum(3)).sum((0, 2)) / count
    square = ((q @ q.mT) * (k @ k.mT)).sum((0, 2, 3)) / count
    return mean, (square - mean**2).clamp(min=0)


def _position_statistics(x: Tensor, position: Tensor) -> Statistics:
    """Return mean and variance of x_i . position_ij over lines, i and j."""
    count = x.shape[0] * x.shape[3] ** 2
    mean = (x.sum(0) * position.sum(2)).sum((1, 2)) / count
    by_place = x.permute(1, 3, 2, 0)  # (heads, L, D, B)
    moments = position.permute(1, 0, 2) @ position.permute(1, 2, 0)  # (L, D, D)
    square = ((by_place @ by_place.mT) * moments).sum((1, 2, 3)) / count
    return mean, (square - mean**2).clamp(min=0)


def _update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, as `nn.BatchNorm2d` does in training."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    momentum = 0.1 if norm.momentum is None else norm.momentum
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), momentum)
