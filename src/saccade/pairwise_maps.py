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
        parts = [
            torch.tanh(queries[:, :, part].to(dtype).unsqueeze(3) + keys) @ direction
            for part in self._parts(queries.shape[2])
        ]
        return (self.scale * torch.cat(parts, 2).squeeze(-1)).softmax(dim=-1)

    @property
    def _row_size(self) -> int:
        return self.keys.numel()


@dataclass(frozen=True, eq=False)
class TokenMap(PairwiseMap):
    """Softmax weights between places, beside tokens without a place and under a mask, if there are any.

        softmax(scale * q k^T + bias)

    `queries` and `keys` are those of the places alone, so that the grids describe them. `extra_queries` and
    `extra_keys`, `(B, heads, T, D)`, are those of the tokens without a place: registers, a class token; they
    may be none (T is 0), and queries may have others than keys. `bias` is what is added to the logits, a
    relative position's weight or a mask's -inf: `(B, heads, T + Nq, T + Nk)`, any axis of it 1. Weights are
    exact, taken over all tokens together: a row over the places sums to 1 minus what the others receive.

    >>> import torch
    >>> q, register = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 4, 8)
    >>> pairs = TokenMap(q, q, 8**-0.5, (3, 4), (3, 4), extra_queries=register, extra_keys=register)
    >>> pairs.attend(y=2, x=3).sum().item() < 1
    True
    >>> pairs.tokens().weights().shape
    torch.Size([1, 2, 16, 16])
    """

    extra_queries: Tensor
    extra_keys: Tensor
    bias: Tensor | None = None
    sums_to_one = False

    def rows(self, queries: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the weights that these queries, with their rows of `bias`, give to the places.

        `(B, heads, n, Nk)`. What is missing from a sum of 1 goes to the tokens without a place.
        """
        dtype = torch.promote_types(queries.dtype, torch.float32)
        keys = torch.cat([self.extra_keys, self.keys], dim=2).to(dtype)
        logits = self.scale * queries.to(dtype) @ keys.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias.to(dtype)
        return logits.softmax(dim=-1)[..., self.extra_keys.shape[2] :]

    def tokens(self) -> TokenMap:
        queries = torch.cat([self.extra_queries, self.queries], dim=2)
        keys = torch.cat([self.extra_keys, self.keys], dim=2)
        shapes = queries.shape[2:3], keys.shape[2:3]
        none = queries[:, :, :0]
        return TokenMap(queries, keys, self.scale, *shapes, none, keys[:, :, :0], self.bias)

    def _rows_at(self, places: slice) -> Tensor:
        return self.rows(self.queries[:, :, places], self._bias_of(self.extra_queries.shape[2], places))

    def _bias_of(self, first: int, rows: slice) -> Tensor | None:
        """The rows of the bias, counted from `first`; an axis of 1 stands for all of them."""
        if self.bias is None or self.bias.shape[2] == 1:
            return self.bias
        return self.bias[:, :, first:][:, :, rows]


@dataclass(frozen=True, eq=False)
class ClassTokenMap(TokenMap):
    """A `TokenMap` whose first token without a place is the class token, from which the model answers.

    The heat map is the row of the class token, not the mean over queries.

    >>> import torch
    >>> q, c = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 1, 8)
    >>> pairs = ClassTokenMap(q, q, 8**-0.5, (3, 4), (3, 4), extra_queries=c, extra_keys=c)
    >>> pairs.class_row().shape               # where does the class token look?
    torch.Size([1, 3, 4])
    >>> pairs.attend(y=2, x=3).sum().item() < 1
    True
    """

    def class_row(self, head: int | None = None) -> Tensor:
        """Return where the class token looks, `(B, *key_shape)`; the mean over heads unless named."""
        row = self.rows(self.extra_queries[:, :, :1], self._bias_of(0, slice(1)))
        return self._heads(row, head).reshape(-1, *self.key_shape)

    def received(self, head: int | None = None) -> Tensor:
        """Return the weight that each place receives, the mean over the queries of places.

        It sums to less than 1: the rest goes to the class token. Neither its own row nor its column counts.
        """
        return super().received(head)

    def saliency(self) -> Tensor:
        return self.class_row()
