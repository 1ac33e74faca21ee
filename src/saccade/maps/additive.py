"""Maps of additive attention, whose logits are sums over hidden units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps.pairwise import PairwiseMap, chunks


@dataclass(frozen=True, eq=False)
class AdditiveMap(PairwiseMap):
    """The weights `softmax(scale * sum_d direction_d tanh(queries_d + keys_d))`.

    Args:
        direction: Weight of each hidden unit, (B, D).

    Example:
        >>> import torch
        >>> q, v = torch.randn(1, 1, 16, 8), torch.randn(1, 8)
        >>> pairs = AdditiveMap(q, q, scale=1.0, query_shape=(4, 4), key_shape=(4, 4), direction=v)
        >>> round(pairs.attention_received().sum().item(), 4)
        1.0
    """

    direction: Tensor

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        keys, direction = self.keys.to(dtype).unsqueeze(2), self.direction.to(dtype)[:, None, None, :, None]
        slices = chunks(queries.shape[2], self._row_size)
        parts = (queries[:, :, chunk].to(dtype).unsqueeze(3) for chunk in slices)
        scores = [torch.tanh(part + keys) @ direction for part in parts]
        return (self.scale * torch.cat(scores, 2).squeeze(-1)).softmax(dim=-1)

    @property
    def _row_size(self) -> int:
        return self.keys.numel()
