"""Maps of attention among tokens of which some have no place in the image: class tokens, registers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps.pairwise import PairwiseMap


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
    >>> pairs.attention_from(y=2, x=3).sum().item() < 1
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
    >>> pairs.attention_from(y=2, x=3).sum().item() < 1
    True
    """

    def class_row(self, head: int | None = None) -> Tensor:
        """Return where the class token looks, `(B, *key_shape)`; the mean over heads unless named."""
        row = self.rows(self.extra_queries[:, :, :1], self._bias_of(0, slice(1)))
        return self._heads(row, head).reshape(-1, *self.key_shape)

    def attention_received(self, head: int | None = None) -> Tensor:
        """Return the weight that each place receives, the mean over the queries of places.

        It sums to less than 1: the rest goes to the class token. Neither its own row nor its column counts.
        """
        return super().attention_received(head)

    def saliency(self) -> Tensor:
        return self.class_row()
