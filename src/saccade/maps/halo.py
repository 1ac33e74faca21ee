"""Maps of attention from the blocks of an image to larger windows around them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import BadOption
from saccade.maps.pairwise import PairwiseMap, chunks


@dataclass(frozen=True, eq=False)
class HaloMap(PairwiseMap):
    """Softmax weights of the positions of each block for a window: the block and a halo around it.

        A_pn = softmax_n(scale * q_p . k_n + rows_p,y + columns_p,x)

    y and x are the row and the column of n in the window of p, which has m = block + 2 halo of each. Keys
    outside the image are 0 and take part in the softmax; their weights are left out, so rows may sum to less
    than 1.

    Args:
        row_logits: Logits of each query for the rows of its window, (B, heads, N, m).
        column_logits: Logits of each query for the columns of its window, (B, heads, N, m).
        block: Height and width of a block. Blocks start at the upper left corner of the grid.
        halo: Positions around a block that its window covers.

    Example:
        >>> import torch
        >>> q, zeros = torch.randn(1, 1, 16, 8), torch.zeros(1, 1, 16, 4)
        >>> pairs = HaloMap(q, q, 1.0, (4, 4), (4, 4), zeros, zeros, block=2, halo=1)
        >>> (pairs.attention_from(y=0, x=0)[0] > 0).int().tolist()
        [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    """

    row_logits: Tensor
    column_logits: Tensor
    block: int
    halo: int
    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: the block of a query is unknown without its position."""
        message = "HaloMap: rows of queries need their positions; call attention_from instead"
        raise BadOption(message, owner="HaloMap", option="queries")

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        count = math.prod(self.key_shape)
        window = (self.block + 2 * self.halo) ** 2
        received = self.keys.new_zeros(self.keys.shape[0], count + 1, dtype=self._dtype)
        for chunk in chunks(count, window * self.keys[:, :, 0].numel()):
            weights, slots = self._windows(chunk)
            weights = self._select_head(weights, head) * relevance[:, chunk, None].to(weights)
            received.index_add_(1, slots.flatten(), weights.flatten(1))
        return received[:, :-1]

    def rows_at(self, positions: slice) -> Tensor:
        weights, slots = self._windows(positions)
        rows = weights.new_zeros(*weights.shape[:3], math.prod(self.key_shape) + 1)
        return rows.scatter_(3, slots.expand_as(weights), weights)[..., :-1]

    def _windows(self, positions: slice) -> tuple[Tensor, Tensor]:
        """Return the weights in the windows of queries, (B, heads, n, m^2), and the index of each key.

        All keys outside the image share one index after the last.
        """
        height, width = self.key_shape
        index = torch.arange(height * width, device=self.keys.device)[positions, None]
        step = torch.arange(self.block + 2 * self.halo, device=self.keys.device) - self.halo
        y = index // width // self.block * self.block + step
        x = index % width // self.block * self.block + step
        inside = ((y >= 0) & (y < height)).unsqueeze(2) & ((x >= 0) & (x < width)).unsqueeze(1)
        slots = (y.unsqueeze(2) * width + x.unsqueeze(1)).where(inside, height * width).flatten(1)
        keys = F.pad(self.keys, (0, 0, 0, 1))[:, :, slots].to(self._dtype)
        queries = self.queries[:, :, positions].to(self._dtype)
        logits = self.scale * (keys @ queries.unsqueeze(-1)).squeeze(-1)
        rows, columns = (z[:, :, positions].to(self._dtype) for z in (self.row_logits, self.column_logits))
        return (logits + (rows.unsqueeze(4) + columns.unsqueeze(3)).flatten(3)).softmax(-1), slots

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.queries.dtype, torch.float32)
