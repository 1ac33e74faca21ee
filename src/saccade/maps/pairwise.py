"""Maps of attention between pairs of positions, stored as the factors of their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.errors import BadShape
from saccade.maps.base import AttentionMap

CHUNK = 1 << 22  # weights held at a time when rows are reduced


def chunks(count: int, row_size: int) -> Iterator[slice]:
    """Split `count` rows of `row_size` values into chunks that fit the memory limit.

    An exported program takes all rows at once, because the number of chunks would depend on the size.
    """
    if torch.compiler.is_exporting():
        yield slice(0, count)
        return
    step = max(1, CHUNK // row_size)
    yield from (slice(start, start + step) for start in range(0, count, step))


def scaled_products(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Return scale * queries @ keys^T in float32 or higher precision."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return scale * queries.to(dtype) @ keys.to(dtype).transpose(-2, -1)


def softmax_weights(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Return softmax(scale * queries @ keys^T + bias) in float32 or higher precision."""
    logits = scaled_products(queries, keys, scale)
    return (logits if bias is None else logits + bias.to(logits)).softmax(dim=-1)


@dataclass(frozen=True, eq=False)
class Sinks:
    """Tokens that receive far more attention than others; see `PairwiseMap.sinks`.

    Args:
        tokens: Whether each token is a sink, (B, N); tokens without a position come first.
        share: Share of all attention that the sinks receive, (B,).
    """

    tokens: Tensor
    share: Tensor


@dataclass(frozen=True, eq=False)
class PairwiseMap(AttentionMap):
    """Softmax weights between every query and every key, stored as their factors.

        A = softmax(scale * queries @ keys^T)        (B, heads, Nq, Nk)

    Only the factors are stored, so a row or the column mean of a 128 x 128 image is available without its
    268 million weights. Heads are numbered from 0.

    Args:
        queries: Queries, (B, heads, Nq, D).
        keys: Keys, (B, heads, Nk, D).
        scale: Factor of the logits.
        query_shape: Grid of the queries: (L,), (H, W) or (T, H, W), with Nq positions.
        key_shape: Grid of the keys, with Nk positions.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 2, 16, 8)
        >>> pairs = PairwiseMap(q, q, scale=8**-0.5, query_shape=(4, 4), key_shape=(4, 4))
        >>> pairs.attention_from(y=1, x=3).shape          # weights of the query in row 1, column 3
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
    sums_to_one = True  # whether every row of weights sums to 1; False in some subclasses

    def rows(self, queries: Tensor) -> Tensor:
        """Return the weights of `queries`.

        Weights are computed in float32 or higher precision.

        Args:
            queries: Queries, (B, heads, n, D).

        Returns:
            Weights, (B, heads, n, Nk).
        """
        return softmax_weights(queries, self.keys, self.scale)

    def weights(self) -> Tensor:
        """Return all weights, (B, heads, Nq, Nk). No other method builds this large tensor."""
        return self.rows_at(slice(None))

    def attention_from(
        self, *, y: int | None = None, x: int | None = None, t: int | None = None, head: int | None = None
    ) -> Tensor:
        """Return the weights of the query at one position of the query grid.

        Args:
            y: Row, for images and clips.
            x: Column, or the position in a sequence.
            t: Frame, for clips.
            head: Head, counted from 0; by default, the mean over heads.

        Returns:
            Weights, (B, *key_shape).

        Raises:
            BadShape: If an axis is missing, not part of the grid or out of range, or the head does not exist.
        """
        index = self._index(t, y, x)
        row = self.rows_at(slice(index, index + 1))
        return self._select_head(row, head).reshape(-1, *self.key_shape)

    def attention_received(self, head: int | None = None) -> Tensor:
        """Return the weight that each key position receives: the mean over queries.

        The result sums to 1 if the rows of weights do. Memory grows with Nk, not with Nq * Nk, since queries
        are processed in chunks.

        Args:
            head: Head, counted from 0; by default, the mean over heads.

        Returns:
            Weights, (B, *key_shape).
        """
        batch, count = self.queries.shape[0], math.prod(self.query_shape)
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        uniform = torch.full((batch, count), 1 / count, dtype=dtype, device=self.queries.device)
        return self.propagate(uniform, head).reshape(-1, *self.key_shape)

    def sinks(self, ratio: float = 10.0) -> Sinks:
        """Return the tokens that receive over `ratio` times the mean attention, such as registers.

        References:
            Darcet, Oquab, Mairal, Bojanowski: Vision Transformers Need Registers, ICLR 2024 (section 2).

        Args:
            ratio: Attention of a sink, relative to the mean over all tokens.

        Example:
            >>> import torch
            >>> q, k = torch.ones(1, 1, 16, 1), torch.zeros(1, 1, 16, 1)
            >>> k[0, 0, 5] = 9
            >>> sinks = PairwiseMap(q, k, 1.0, (4, 4), (4, 4)).sinks()
            >>> sinks.tokens.nonzero().tolist(), round(sinks.share.item(), 2)
            ([[0, 5]], 1.0)
        """
        received = self.tokens().attention_received()
        tokens = received > ratio * received.mean(1, keepdim=True)
        return Sinks(tokens, self.share(tokens))

    def share(self, tokens: Tensor) -> Tensor:
        """Return the share of all attention that some tokens receive, (B,).

        Args:
            tokens: Whether a token counts, (B, N); tokens without a position come first.

        Example:
            >>> import torch
            >>> pairs = PairwiseMap(torch.ones(1, 1, 16, 1), torch.ones(1, 1, 16, 1), 1.0, (4, 4), (4, 4))
            >>> pairs.share(torch.arange(16)[None] < 4).tolist()
            [0.25]
        """
        received = self.tokens().attention_received()
        return (received * tokens).sum(1) / received.sum(1)

    def propagate(self, relevance: Tensor, head: int | None = None) -> Tensor:
        """Return relevance @ A: relevance of queries, distributed over keys by the weights A.

        Memory grows with Nk, not with Nq * Nk.

        Args:
            relevance: Relevance of each query, (B, Nq).
            head: Head, counted from 0; by default, A is the mean over heads.

        Returns:
            Relevance of each key, (B, Nk).
        """
        sums = []
        for chunk in chunks(math.prod(self.query_shape), self._row_size):
            rows = self._select_head(self.rows_at(chunk), head)
            sums.append((relevance[:, None, chunk].to(rows) @ rows).squeeze(1))
        return torch.stack(sums).sum(0)

    def tokens(self) -> PairwiseMap:
        """Return the same weights between all tokens in one sequence, tokens without a position first.

        Example:
            >>> import torch
            >>> q = torch.randn(1, 2, 16, 8)
            >>> PairwiseMap(q, q, 8**-0.5, (4, 4), (4, 4)).tokens().query_shape
            (16,)
        """
        queries, keys = math.prod(self.query_shape), math.prod(self.key_shape)
        return replace(self, query_shape=(queries,), key_shape=(keys,))

    def saliency(self) -> Tensor:
        return self.attention_received()

    def rows_at(self, positions: slice) -> Tensor:
        """Return the weights of the queries with these numbers, (B, heads, n, Nk)."""
        return self.rows(self.queries[:, :, positions])

    @property
    def _row_size(self) -> int:
        """Number of values held for one row of every image and head."""
        return self.keys[..., 0].numel()

    def _select_head(self, weights: Tensor, head: int | None) -> Tensor:
        if head is None:
            return weights.mean(1)
        if not 0 <= head < weights.shape[1]:
            raise self._bad("head", head, f"head={head} must be from 0 to {weights.shape[1] - 1}")
        return weights[:, head]

    def _index(self, t: int | None, y: int | None, x: int | None) -> int:
        axes = ("t", "y", "x")[-len(self.query_shape) :]
        position = {name: value for name, value in (("t", t), ("y", y), ("x", x)) if value is not None}
        if tuple(position) != axes:
            needed = f"needs a position in {', '.join(axes)}, got {position}"
            raise self._bad("position", position, f"a map of shape {self.query_shape} {needed}")
        index = 0
        for name, extent in zip(axes, self.query_shape, strict=True):
            value = position[name]
            if not 0 <= value < extent:
                raise self._bad(name, value, f"{name}={value} is outside the map of shape {self.query_shape}")
            index = index * extent + value
        return index

    def _bad(self, option: str, value: object, message: str) -> BadShape:
        owner = type(self).__name__
        return BadShape(f"{owner}: {message}", owner=owner, option=option, value=value)


@dataclass(frozen=True, eq=False)
class DotProductMap(PairwiseMap):
    """The weights `scale * queries @ keys^T`, of either sign and without a softmax: rows do not sum to 1.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 1, 16, 8)
        >>> pairs = DotProductMap(q, q, scale=1 / 16, query_shape=(4, 4), key_shape=(4, 4))
        >>> pairs.attention_from(y=1, x=3).shape
        torch.Size([1, 4, 4])
    """

    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:
        return scaled_products(queries, self.keys, self.scale)


@dataclass(frozen=True, eq=False)
class RectifiedSumMap(PairwiseMap):
    """The weights `scale * relu(queries + keys^T)` for queries and keys of width D = 1.

    Example:
        >>> import torch
        >>> a, b = torch.randn(1, 1, 16, 1), torch.randn(1, 1, 4, 1)
        >>> RectifiedSumMap(a, b, scale=1 / 4, query_shape=(4, 4), key_shape=(2, 2)).weights().shape
        torch.Size([1, 1, 16, 4])
    """

    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        return self.scale * torch.relu(queries.to(dtype) + self.keys.to(dtype).transpose(-2, -1))
