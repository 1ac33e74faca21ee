"""Maps of attention within windows of an image, on the grid of the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadOption
from saccade.maps.pairwise import PairwiseMap, chunks, softmax_weights


@dataclass(frozen=True, eq=False)
class WindowMap(PairwiseMap):
    """Softmax weights between the positions of each window; weights between windows are 0.

        A = softmax(scale * q k^T + bias)        in each window

    All methods of `PairwiseMap` refer to the grid of the whole image. Weights of padding are left out, so
    rows may sum to less than 1.

    Args:
        queries: Queries of the n positions of each window, (B, heads, windows, n, D).
        keys: Keys of the m positions of each window, (B, heads, windows, m, D).
        places: Index of each query in the grid `query_shape`, in row-major order, (windows, n); -1 for
            padding. The indices account for a cyclic shift.
        bias: Values added to the logits, such as relative position biases and the mask of a shifted window,
            broadcastable to (heads, windows, n, m).
        key_places: Index of each key in the grid `key_shape`, (windows, m), if queries are pooled. By
            default, keys have the places of the queries.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 2, 4, 6, 8)                     # windows of 2 x 3 in a grid of 4 x 6
        >>> places = torch.arange(24).reshape(2, 2, 2, 3).transpose(1, 2).reshape(4, 6)
        >>> pairs = WindowMap(q, q, 8**-0.5, (4, 6), (4, 6), places=places, bias=torch.zeros(1, 1, 6, 6))
        >>> pairs.attention_from(y=1, x=4)[0].nonzero().tolist()       # the window of row 1, column 4
        [[0, 3], [0, 4], [0, 5], [1, 3], [1, 4], [1, 5]]
    """

    places: Tensor
    bias: Tensor
    key_places: Tensor | None = None
    sums_to_one = False
    shared_fields = ("places", "bias", "key_places")

    def rows(self, queries: Tensor) -> Tensor:  # noqa: ARG002
        """Raise `BadOption`: the window of a query is unknown without its position."""
        message = "WindowMap: rows of queries need their positions; call attention_from instead"
        raise BadOption(message, owner="WindowMap", option="queries")

    def window_weights(self) -> Tensor:
        """Return the weights within each window, (B, heads, windows, n, m), including padding."""
        return softmax_weights(self.queries, self.keys, self.scale, self.bias)

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        batch, heads, windows, n, _ = self.queries.shape
        count = math.prod(self.key_shape)
        in_windows = F.pad(relevance, (0, 1))[:, self.places]  # the relevance of padding is 0
        bias = self.bias.expand(-1, windows, -1, -1)
        parts = []
        for chunk in chunks(windows, batch * heads * n * self.keys.shape[3]):
            keys = self.keys[:, :, chunk]
            weights = softmax_weights(self.queries[:, :, chunk], keys, self.scale, bias[:, chunk])
            weights = self._select_head(weights, head)
            parts.append((in_windows[:, chunk, None].to(weights) @ weights).squeeze(2))
        received = torch.cat(parts, 1)
        out = received.new_zeros(batch, count + 1)
        return out.index_add_(1, self._slots.flatten(), received.flatten(1))[:, :count]

    def rows_at(self, positions: slice) -> Tensor:
        batch, heads, _, n, _ = self.queries.shape
        order = self.places.flatten().argsort()[-math.prod(self.query_shape) :]  # padding, -1, comes first
        window, position = order[positions] // n, order[positions] % n
        bias = self.bias.expand(-1, len(self.places), -1, -1)[:, window, position]
        queries = self.queries[:, :, window, position].unsqueeze(3)
        weights = softmax_weights(queries, self.keys[:, :, window], self.scale, bias.unsqueeze(2)).squeeze(3)
        rows = weights.new_zeros(batch, heads, len(window), math.prod(self.key_shape) + 1)
        return rows.scatter_(3, self._slots[window].expand_as(weights), weights)[..., :-1]

    @property
    def _slots(self) -> Tensor:
        """Output index of each key; all padding shares one extra index after the last position."""
        places = self.places if self.key_places is None else self.key_places
        return torch.where(places < 0, math.prod(self.key_shape), places)
