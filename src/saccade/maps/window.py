"""The map of attention inside windows of an image, drawn on the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadOption
from saccade.maps.pairwise import CHUNK, PairwiseMap


@dataclass(frozen=True, eq=False)
class WindowMap(PairwiseMap):
    """Softmax weights between the positions of each window; between windows there are none.

        softmax(scale * q k^T + bias)        in each window

    `queries` and `keys` are `(B, heads, windows, n, D)`, of the n positions of each window. `places`
    `(windows, n)` says where in the grid `query_shape` each of them lies, counted row by row, and -1 for
    padding: a cyclic shift is undone by it. `bias` `(heads, windows, n, n)`, its axes 1 where it is the same
    for all, is added to the logits: relative positions, and what a shifted window must not see.

    Everything that a `PairwiseMap` answers is answered on the whole grid. What padding receives is missing
    from the sums of rows.

    >>> import torch
    >>> q = torch.randn(1, 2, 4, 6, 8)                     # windows of 2 x 3 in a grid of 4 x 6
    >>> places = torch.arange(24).reshape(2, 2, 2, 3).transpose(1, 2).reshape(4, 6)
    >>> pairs = WindowMap(q, q, 8**-0.5, (4, 6), (4, 6), places=places, bias=torch.zeros(1, 1, 6, 6))
    >>> pairs.attention_from(y=1, x=4)[0].nonzero().tolist()       # row 1, column 4 looks inside its window
    [[0, 3], [0, 4], [0, 5], [1, 3], [1, 4], [1, 5]]
    """

    places: Tensor
    bias: Tensor
    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: without its place, a query has no window."""
        raise BadOption("a query of a window has no row without its place; ask attend for it")

    def window_weights(self) -> Tensor:
        """Return the weights inside each window, `(B, heads, windows, n, n)`, padding included."""
        return self._softmax(self.queries, self.keys, self.bias)

    def propagate(self, shares: Tensor, head: int | None = None) -> Tensor:
        batch, heads, windows, n, _ = self.keys.shape
        count = math.prod(self.key_shape)
        inside = F.pad(shares, (0, 1))[:, self.places]  # padding has no share
        parts = []
        step = max(1, CHUNK // (batch * heads * n * n))
        for first in range(0, windows, step):
            part = slice(first, first + step)
            weights = self._softmax(self.queries[:, :, part], self.keys[:, :, part], self._bias_of(part))
            weights = self._heads(weights, head)
            parts.append((inside[:, part, None].to(weights) @ weights).squeeze(2))
        received = torch.cat(parts, 1)
        out = received.new_zeros(batch, count + 1)
        return out.index_add_(1, self._slots.flatten(), received.flatten(1))[:, :count]

    def _rows_at(self, places: slice) -> Tensor:
        batch, heads, _, n, _ = self.keys.shape
        count = math.prod(self.key_shape)
        found = self.places.flatten().argsort()[-count:][places]  # padding, -1, comes first
        window, position = found // n, found % n
        bias = self.bias.expand(-1, len(self.places), -1, -1)[:, window, position]
        queries = self.queries[:, :, window, position].unsqueeze(3)
        inside = self._softmax(queries, self.keys[:, :, window], bias.unsqueeze(2)).squeeze(3)
        rows = inside.new_zeros(batch, heads, len(found), count + 1)
        index = self._slots[window].expand_as(inside)
        return rows.scatter_(3, index, inside)[..., :count]

    def _softmax(self, queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        logits = self.scale * queries.to(dtype) @ keys.to(dtype).transpose(-2, -1)
        return (logits + bias.to(dtype)).softmax(dim=-1)

    def _bias_of(self, windows: slice) -> Tensor:
        return self.bias if self.bias.shape[1] == 1 else self.bias[:, windows]

    @property
    def _slots(self) -> Tensor:
        """Where the weight of each position is added up: padding's in one slot after the last place."""
        return self.places.remainder(math.prod(self.key_shape) + 1)
