"""Attention between positions as commonly written, with all weights in memory, for `pairwise.py`.

Each function takes what the function of the package takes that it replaces.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return (scale * query @ key.mT).softmax(-1) @ value


def additive(query: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    weights = (torch.tanh(q[:, :, :, None] + k[:, :, None]) @ direction).softmax(-1)
    return (weights @ v).transpose(1, 2)


def non_local(theta: Tensor, phi: Tensor, g: Tensor, pairwise: str, scale: float) -> Tensor:
    if pairwise == "dot_product":
        return (theta @ phi.mT / phi.shape[1]) @ g
    if pairwise == "concatenation":
        return (torch.relu(theta + phi.mT) / phi.shape[1]) @ g
    return softmax(theta, phi, g, scale)


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Columns and rows in two products, whose logits are joined before the softmax."""
    height = query.shape[2]
    (q_c, k_c, v_c), (q_r, k_r, v_r) = (
        [x.permute(axes) for x in (query, key, value)] for axes in ((0, 3, 2, 1), (0, 2, 3, 1))
    )
    itself = torch.eye(height, dtype=torch.bool)  # counted once, in its row
    of_column = (q_c @ k_c.mT).masked_fill(itself, float("-inf")).transpose(1, 2)
    weights = torch.cat([of_column, q_r @ k_r.mT], 3).softmax(3)
    by_column, by_row = weights.split([height, query.shape[3]], 3)
    means: Tensor = (by_column.transpose(1, 2) @ v_c).transpose(1, 2) + by_row @ v_r
    return means.permute(0, 3, 1, 2)


def window(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    logits: Tensor = query.shape[-1] ** -0.5 * query @ key.mT
    return (logits if bias is None else logits + bias).softmax(-1) @ value


def halo(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """All windows are copied."""
    block, size = query.shape[-2], rows.shape[-1]
    margin = (size - block) // 2
    keys, values = (
        F.pad(x, (0, 0, *4 * [margin])).unfold(2, size, block).unfold(3, size, block).flatten(5)
        for x in (key, value)
    )  # (B, heads, blocks, blocks, D, size^2)
    positions = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4, 5).flatten(5)
    weights = (query.flatten(4, 5) @ keys + positions).softmax(-1)
    grid: Tensor = (weights @ values.mT).unflatten(4, (block, block))
    return grid.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def neighborhood(query: Tensor, key: Tensor, value: Tensor, size: int, _: int) -> Tensor:
    """The neighbors of every position are copied. The dilation has to be 1."""
    rows, columns = (
        (torch.arange(extent) - size // 2).clamp(0, extent - size)[:, None] + torch.arange(size)
        for extent in query.shape[1:3]
    )
    k, v = (x[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3, 4) for x in (key, value))
    weights = torch.einsum("byxhd,byxnhd->byxhn", query.shape[-1] ** -0.5 * query, k).softmax(-1)
    return torch.einsum("byxhn,byxnhd->byxhd", weights, v)


def efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head after the other, as the authors."""
    heads = zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True)
    return torch.stack([(k @ v.mT).mT @ q for q, k, v in heads], 1)


def external(logits: Tensor) -> tuple[Tensor, Tensor]:
    weights = logits.softmax(2)
    return weights, weights / (1e-9 + weights.sum(1, keepdim=True))


def axial(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """All lines at once, each term of the logits a tensor."""
    half = query.shape[2]
    of_query, of_key, of_value = positions.split([half, half, 2 * half])
    terms = (
        torch.einsum("bhci,bhcj->bhij", query, key),
        torch.einsum("bhci,cij->bhij", query, of_query),
        torch.einsum("bhcj,cji->bhij", key, of_key),
    )
    factors = scale[..., None, None]
    logits = factors[0] * terms[0] + factors[1] * terms[1] + factors[2] * terms[2]
    weights = (logits + shift[:, None, None]).softmax(3)
    sums = (
        torch.einsum("bhij,bhcj->bhci", weights, value),
        torch.einsum("bhij,cij->bhci", weights, of_value),
    )
    return torch.stack(sums, 3)


def xca(query: Tensor, key: Tensor, temperature: Tensor) -> Tensor:
    q, k = (F.normalize(x, dim=-1) for x in (query, key))
    return (q @ k.mT * temperature).softmax(-1)
