"""Maps of attention that depends on the offset between two positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import BadOption
from saccade.maps.pairwise import DotProductMap, scaled_products


@dataclass(frozen=True, eq=False)
class OffsetMap(DotProductMap):
    """Products of queries with keys, and with one vector for each offset in a window around the query.

        A_ij = scale * q_i . (k_j + r_j-i)        r = 0 outside the window

    Queries and keys have the same grid (H, W). For weights that depend on the offset alone, keys are 0.
    The mean over queries is computed in O(N) for N positions, unless the window is larger than the map.

    Args:
        offsets: Vectors r of the offsets, (B, heads, D, h, w), for an odd height and width of the window.

    Example:
        >>> import torch
        >>> q, zeros, r = torch.ones(1, 1, 12, 1), torch.zeros(1, 1, 12, 1), torch.ones(1, 1, 1, 3, 3)
        >>> pairs = OffsetMap(q, zeros, 1.0, query_shape=(3, 4), key_shape=(3, 4), offsets=r)
        >>> pairs.attention_from(y=0, x=3)[0].nonzero().tolist()
        [[0, 2], [0, 3], [1, 2], [1, 3]]
    """

    offsets: Tensor

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: the window of a query is unknown without its position."""
        message = "OffsetMap: rows of queries need their positions; call attention_from instead"
        raise BadOption(message, owner="OffsetMap", option="queries")

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        if math.prod(self._window) > math.prod(self.key_shape):
            return super().propagate(relevance, head)
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        queries = self.queries.to(dtype) * relevance[:, None, :, None].to(dtype)
        content = scaled_products(queries.sum(2, keepdim=True), self.keys, self.scale).squeeze(2)
        windows = scaled_products(queries, self.offsets.flatten(3).mT, self.scale).mT.flatten(0, 1)
        size = self._window
        padding = (size[0] // 2, size[1] // 2)
        local = F.fold(windows, self.key_shape, size, padding=padding).reshape(content.shape)
        return self._select_head(content + local, head)

    def rows_at(self, positions: slice) -> Tensor:
        queries = self.queries[:, :, positions]
        content = scaled_products(queries, self.keys, self.scale)
        local = scaled_products(queries, self.offsets.flatten(3).mT, self.scale)
        height, width = self.key_shape
        h, w = self._window
        index = torch.arange(height * width, device=queries.device)[positions, None]
        step = torch.arange(h * w, device=queries.device)
        y, x = index // width + step // w - h // 2, index % width + step % w - w // 2
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        slots = (y * width + x).masked_fill(outside, height * width)  # one slot for all that is outside
        rows = F.pad(content, (0, 1)).scatter_add(3, slots.expand(local.shape), local)
        return rows[..., :-1]

    @property
    def _window(self) -> tuple[int, int]:
        return self.offsets.shape[3], self.offsets.shape[4]
