"""Maps of attention of each position to its neighborhood."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.errors import BadOption
from saccade.maps.pairwise import PairwiseMap, chunks


def neighborhood_bounds(length: int, size: int, dilation: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first and the last neighbor of each position of one axis, (length,) each.

    The neighbors of a position are `size` positions around it, `dilation` apart. At a border they move
    inward, so that their number stays the same; on an axis that is too short they are all positions of the
    same remainder.

    Example:
        >>> import torch
        >>> [bounds.tolist() for bounds in neighborhood_bounds(5, 3, 1, torch.device("cpu"))]
        [[0, 0, 1, 2, 2], [2, 2, 3, 4, 4]]
    """
    place = torch.arange(length, device=device)
    remainder = place % dilation
    count = (length - 1 - remainder) // dilation + 1  # positions of the same remainder
    first = torch.minimum(place // dilation - size // 2, count - size).clamp(min=0)
    last = torch.minimum(first + size, count) - 1
    return first * dilation + remainder, last * dilation + remainder


@dataclass(frozen=True, eq=False)
class NeighborhoodMap(PairwiseMap):
    """Softmax weights of each position for the positions of its neighborhood; all others are 0.

        A_pj = softmax_j(scale * q_p . k_j)        for j in the neighborhood of p

    The mean over queries is computed in O(N size^2) for N positions.

    Args:
        grid: Grid (H, W) of queries and keys.
        size: Height and width of a neighborhood, in neighbors.
        dilation: Distance of neighbors.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 2, 20, 8)
        >>> pairs = NeighborhoodMap(q, q, 1.0, (4, 5), (4, 5), grid=(4, 5), size=3)
        >>> pairs.attention_from(y=0, x=2)[0].nonzero().tolist()       # moved inward at the upper border
        [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    """

    grid: tuple[int, int]
    size: int
    dilation: int = 1

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: the neighborhood of a query is unknown without its position."""
        message = "NeighborhoodMap: rows of queries need their positions; call attention_from instead"
        raise BadOption(message, owner="NeighborhoodMap", option="queries")

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        batch, heads, count, width = self.keys.shape
        dtype = torch.promote_types(self.keys.dtype, torch.float32)
        out = torch.zeros(batch, count, dtype=dtype, device=self.keys.device)
        for chunk in chunks(count, batch * heads * self.size**2 * width):
            weights, index = self._local_weights(chunk)
            received = relevance[:, chunk, None].to(dtype) * self._select_head(weights, head)
            out.index_add_(1, index.flatten(), received.flatten(1))
        return out

    def rows_at(self, positions: slice) -> Tensor:
        weights, index = self._local_weights(positions)
        rows = weights.new_zeros(*weights.shape[:3], self.keys.shape[2])
        return rows.scatter_add_(3, index.expand_as(weights), weights)

    def _local_weights(self, positions: slice) -> tuple[Tensor, Tensor]:
        """Return weights of the neighbors, (B, heads, n, size^2), and their positions, (n, size^2).

        Neighbors that a short axis lacks have the weight 0, and any position.
        """
        height, width = self.grid
        (rows, has_row), (columns, has_column) = (self._neighbors(extent) for extent in self.grid)
        place = torch.arange(height * width, device=self.keys.device)[positions]
        y = place // width
        x = place - y * width  # ONNX has no remainder by a number that is known when it runs
        index = (rows[y][:, :, None] * width + columns[x][:, None]).flatten(1)
        inside = (has_row[y][:, :, None] & has_column[x][:, None]).flatten(1)
        dtype = torch.promote_types(self.keys.dtype, torch.float32)
        queries, keys = self.queries[:, :, positions].to(dtype), self.keys[:, :, index].to(dtype)
        logits = self.scale * torch.einsum("bhnd,bhnkd->bhnk", queries, keys)
        return logits.masked_fill(~inside, -torch.inf).softmax(-1), index

    def _neighbors(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the neighbors of each position of an axis, and whether they exist, (length, size)."""
        first, last = neighborhood_bounds(length, self.size, self.dilation, self.keys.device)
        steps = self.dilation * torch.arange(self.size, device=self.keys.device)
        neighbors = first[:, None] + steps
        return torch.minimum(neighbors, last[:, None]), neighbors <= last[:, None]
