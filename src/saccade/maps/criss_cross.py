"""Maps of attention to the row and the column of each position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.errors import BadOption
from saccade.maps.pairwise import PairwiseMap


@dataclass(frozen=True, eq=False)
class CrissCrossMap(PairwiseMap):
    """Softmax weights of each position for the positions in its row and its column; all others are 0.

        A_pj = softmax_j(scale * q_p . k_j)        for j in the row or the column of p

    The mean over queries is computed in O(H W (H + W)).

    Args:
        grid: Grid (H, W) of queries and keys, whose rows and columns are meant.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 2, 12, 8)
        >>> pairs = CrissCrossMap(q, q, 1.0, query_shape=(3, 4), key_shape=(3, 4), grid=(3, 4))
        >>> pairs.attention_from(y=1, x=2)[0].nonzero().tolist()
        [[0, 2], [1, 0], [1, 1], [1, 2], [1, 3], [2, 2]]
    """

    grid: tuple[int, int]

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: the row and the column of a query are unknown without its position."""
        raise BadOption(
            "CrissCrossMap: rows of queries need their positions; call attention_from instead",
            owner="CrissCrossMap",
            option="queries",
        )

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        columns, rows = self._lines()
        columns, rows = (self._select_head(weights, head) for weights in (columns, rows))
        grid = relevance.unflatten(1, self.grid).to(rows)
        vertical = (grid.mT.unsqueeze(-2) @ columns).squeeze(-2).mT
        horizontal = (grid.unsqueeze(-2) @ rows).squeeze(-2)
        received: Tensor = (vertical + horizontal).flatten(1)
        return received

    def rows_at(self, positions: slice) -> Tensor:
        height, width = self.grid
        index = torch.arange(height * width, device=self.keys.device)
        y, x = index // width, index % width
        chosen_y, chosen_x = y[positions, None], x[positions, None]
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        logits = self.scale * self.queries[:, :, positions].to(dtype) @ self.keys.to(dtype).mT
        return logits.masked_fill((y != chosen_y) & (x != chosen_x), -torch.inf).softmax(-1)

    def _lines(self) -> tuple[Tensor, Tensor]:
        """Return the weights in columns, (B, heads, W, H, H), and in rows, (B, heads, H, W, W)."""
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        q, k = (x.to(dtype).unflatten(2, self.grid) for x in (self.queries, self.keys))
        rows = self.scale * q @ k.mT
        columns = self.scale * q.transpose(2, 3) @ k.transpose(2, 3).mT
        itself = torch.eye(self.grid[0], dtype=torch.bool, device=q.device)
        columns = columns.masked_fill(itself, torch.finfo(columns.dtype).min)  # it counts once, in the row
        joint = torch.logaddexp(columns.logsumexp(-1).mT, rows.logsumexp(-1)).unsqueeze(-1)
        return (columns - joint.transpose(2, 3)).exp(), (rows - joint).exp()
