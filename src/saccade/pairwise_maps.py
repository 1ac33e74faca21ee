"""Pairwise maps whose weights are not the softmax of products; kept as their factors, like `PairwiseMap`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps import PairwiseMap


@dataclass(frozen=True, eq=False)
class DotProductMap(PairwiseMap):
    """The weights `scale * queries @ keys^T`: of either sign, and no softmax makes them sum to 1.

    >>> import torch
    >>> q = torch.randn(1, 1, 16, 8)
    >>> DotProductMap(q, q, scale=1 / 16, query_shape=(4, 4), key_shape=(4, 4)).attend(y=1, x=3).shape
    torch.Size([1, 4, 4])
    """

    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        return self.scale * queries.to(dtype) @ self.keys.to(dtype).transpose(-2, -1)


@dataclass(frozen=True, eq=False)
class RectifiedSumMap(PairwiseMap):
    """The weights `scale * relu(queries + keys^T)`, of one number per query and key: `D` is 1.

    >>> import torch
    >>> a, b = torch.randn(1, 1, 16, 1), torch.randn(1, 1, 4, 1)
    >>> RectifiedSumMap(a, b, scale=1 / 4, query_shape=(4, 4), key_shape=(2, 2)).weights().shape
    torch.Size([1, 1, 16, 4])
    """

    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        return self.scale * torch.relu(queries.to(dtype) + self.keys.to(dtype).transpose(-2, -1))


@dataclass(frozen=True, eq=False)
class AdditiveMap(PairwiseMap):
    """The weights `softmax(scale * sum_d direction_d tanh(queries_d + keys_d))`; `direction` is `(B, D)`.

    >>> import torch
    >>> q, v = torch.randn(1, 1, 16, 8), torch.randn(1, 8)
    >>> pairs = AdditiveMap(q, q, scale=1.0, query_shape=(4, 4), key_shape=(4, 4), direction=v)
    >>> round(pairs.received().sum().item(), 4)
    1.0
    """

    direction: Tensor

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        keys, direction = self.keys.to(dtype).unsqueeze(2), self.direction.to(dtype)[:, None, None, :, None]
        parts = [torch.tanh(part.to(dtype).unsqueeze(3) + keys) @ direction for part in self._chunks(queries)]
        return (self.scale * torch.cat(parts, 2).squeeze(-1)).softmax(dim=-1)

    @property
    def _row_size(self) -> int:
        return self.keys.numel()
