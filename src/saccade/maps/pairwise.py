"""Maps of attention between positions, kept as the factors of their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.errors import BadShape
from saccade.maps.base import AttentionMap

CHUNK = 1 << 22  # weights held at a time when rows are reduced


@dataclass(frozen=True, eq=False)
class PairwiseMap(AttentionMap):
    """Softmax weights between every query and every key, kept as their factors.

    The weights are `softmax(scale * queries @ keys^T)`, `(B, heads, Nq, Nk)`; only `queries`
    `(B, heads, Nq, D)` and `keys` `(B, heads, Nk, D)` are stored, so one row or the column mean of a
    128 x 128 image can be asked for without its 268 million weights.

    >>> import torch
    >>> q = torch.randn(1, 2, 16, 8)
    >>> pairs = PairwiseMap(q, q, scale=8**-0.5, query_shape=(4, 4), key_shape=(4, 4))
    >>> pairs.attention_from(y=1, x=3).shape          # where does row 1, column 3 look?
    torch.Size([1, 4, 4])
    >>> round(pairs.attention_received().sum().item(), 4)
    1.0
    """

    queries: Tensor
    keys: Tensor
    scale: float
    query_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    kind = "pairwise"
    sums_to_one = True  # every row of weights; not so in some of `its subclasses`

    def rows(self, queries: Tensor) -> Tensor:
        """Return the weights of the given queries `(B, heads, n, D)`: `(B, heads, n, Nk)`.

        They are computed in float32 at least, and in float64 from float64 factors.
        """
        dtype = torch.promote_types(queries.dtype, torch.float32)
        logits = self.scale * queries.to(dtype) @ self.keys.to(dtype).transpose(-2, -1)
        return logits.softmax(dim=-1)

    def weights(self) -> Tensor:
        """Return all weights, `(B, heads, Nq, Nk)`. This is the large tensor that nothing else builds."""
        return self._rows_at(slice(None))

    def attention_from(
        self, *, y: int | None = None, x: int | None = None, t: int | None = None, head: int | None = None
    ) -> Tensor:
        """Return where the query at a position looks, `(B, *key_shape)`; the mean over heads unless named.

        Positions are in the map's own grid: `x` of a sequence, `y, x` of an image, `t, y, x` of a clip.

        Raises `BadShape` if an axis is missing, superfluous or out of range.
        """
        place = self._index(t, y, x)
        row = self._rows_at(slice(place, place + 1))
        return self._heads(row, head).reshape(-1, *self.key_shape)

    def attention_received(self, head: int | None = None) -> Tensor:
        """Return the weight that each position receives, the mean over queries, `(B, *key_shape)`.

        It sums to 1 if rows do. The queries are taken a few at a time: memory grows with Nk, not Nq * Nk.
        """
        batch, count = self.queries.shape[0], math.prod(self.query_shape)
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        equal = torch.full((batch, count), 1 / count, dtype=dtype, device=self.queries.device)
        return self.propagate(equal, head).reshape(-1, *self.key_shape)

    def propagate(self, shares: Tensor, head: int | None = None) -> Tensor:
        """Return shares @ A, where `shares` `(B, Nq)`, looking through the weights A, end up: `(B, Nk)`.

        A is the mean over heads unless one is named. Memory grows with Nk, not Nq * Nk.
        """
        sums = [
            (shares[:, None, part].to(rows) @ rows).squeeze(1)
            for part in self._parts(math.prod(self.query_shape))
            for rows in [self._heads(self._rows_at(part), head)]
        ]
        return torch.stack(sums).sum(0)

    def tokens(self) -> PairwiseMap:
        """Return the same weights among all tokens in a row, those without a place, if any, first.

        >>> import torch
        >>> q = torch.randn(1, 2, 16, 8)
        >>> PairwiseMap(q, q, 8**-0.5, (4, 4), (4, 4)).tokens().query_shape
        (16,)
        """
        shapes = (math.prod(self.query_shape),), (math.prod(self.key_shape),)
        return replace(self, query_shape=shapes[0], key_shape=shapes[1])

    def saliency(self) -> Tensor:
        return self.attention_received()

    def _rows_at(self, places: slice) -> Tensor:
        """Return the weights of the queries at these places, `(B, heads, n, Nk)`."""
        return self.rows(self.queries[:, :, places])

    def _parts(self, count: int) -> Iterator[slice]:
        """Split `count` queries into as many at a time as memory allows."""
        step = max(1, CHUNK // self._row_size)
        return (slice(start, start + step) for start in range(0, count, step))

    @property
    def _row_size(self) -> int:
        """The numbers held for one row of each image and head."""
        return self.keys[..., 0].numel()

    def _heads(self, weights: Tensor, head: int | None) -> Tensor:
        if head is None:
            return weights.mean(1)
        if not 0 <= head < weights.shape[1]:
            raise BadShape(
                f"head={head} is not one of the {weights.shape[1]} heads, 0 to {weights.shape[1] - 1}"
            )
        return weights[:, head]

    def _index(self, t: int | None, y: int | None, x: int | None) -> int:
        axes = {1: ("x",), 2: ("y", "x"), 3: ("t", "y", "x")}[len(self.query_shape)]
        given = {name: value for name, value in (("t", t), ("y", y), ("x", x)) if value is not None}
        if set(given) != set(axes):
            raise BadShape(
                f"a map of shape {self.query_shape} is addressed by {', '.join(axes)}, not {given}"
            )
        index = 0
        for name, extent in zip(axes, self.query_shape, strict=True):
            if not 0 <= given[name] < extent:
                raise BadShape(f"{name}={given[name]} is outside the map of shape {self.query_shape}")
            index = index * extent + given[name]
        return index


@dataclass(frozen=True, eq=False)
class DotProductMap(PairwiseMap):
    """The weights `scale * queries @ keys^T`: of either sign, and no softmax makes them sum to 1.

    >>> import torch
    >>> q = torch.randn(1, 1, 16, 8)
    >>> DotProductMap(q, q, scale=1 / 16, query_shape=(4, 4), key_shape=(4, 4)).attention_from(y=1, x=3).shape
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
    >>> round(pairs.attention_received().sum().item(), 4)
    1.0
    """

    direction: Tensor

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        keys, direction = self.keys.to(dtype).unsqueeze(2), self.direction.to(dtype)[:, None, None, :, None]
        parts = [
            torch.tanh(queries[:, :, part].to(dtype).unsqueeze(3) + keys) @ direction
            for part in self._parts(queries.shape[2])
        ]
        return (self.scale * torch.cat(parts, 2).squeeze(-1)).softmax(dim=-1)

    @property
    def _row_size(self) -> int:
        return self.keys.numel()
