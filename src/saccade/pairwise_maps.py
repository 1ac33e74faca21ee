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
        parts = [torch.tanh(part.to(dtype).unsqueeze(3) + keys) @ direction for part in self._chunks(queries)]
        return (self.scale * torch.cat(parts, 2).squeeze(-1)).softmax(dim=-1)

    @property
    def _row_size(self) -> int:
        return self.keys.numel()


@dataclass(frozen=True, eq=False)
class ClassTokenMap(PairwiseMap):
    """Softmax weights between places, where one more token, without a place, attends and is attended to.

    `queries` and `keys` are those of the places alone, so that the grids describe them; the class token's
    are `class_query` and `class_key`, `(B, heads, 1, D)`. Weights are exact, taken over the places and the
    class token together: a row over the places sums to 1 minus what the class token receives.

    The heat map is the row of the class token, from which the model answers, not the mean over queries.

    >>> import torch
    >>> q, c = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 1, 8)
    >>> pairs = ClassTokenMap(q, q, 8**-0.5, (3, 4), (3, 4), class_query=c, class_key=c)
    >>> pairs.class_row().shape               # where does the class token look?
    torch.Size([1, 3, 4])
    >>> pairs.attend(y=2, x=3).sum().item() < 1
    True
    """

    class_query: Tensor
    class_key: Tensor
    sums_to_one = False

    def rows(self, queries: Tensor) -> Tensor:
        """Return the weights that these queries give to the places, `(B, heads, n, Nk)`.

        What is missing from a sum of 1 goes to the class token.
        """
        dtype = torch.promote_types(queries.dtype, torch.float32)
        keys = torch.cat([self.class_key, self.keys], dim=2).to(dtype)
        logits = self.scale * queries.to(dtype) @ keys.transpose(-2, -1)
        return logits.softmax(dim=-1)[..., 1:]

    def class_row(self, head: int | None = None) -> Tensor:
        """Return where the class token looks, `(B, *key_shape)`; the mean over heads unless named."""
        return self._heads(self.rows(self.class_query), head).reshape(-1, *self.key_shape)

    def received(self, head: int | None = None) -> Tensor:
        """Return the weight that each place receives, the mean over the queries of places.

        It sums to less than 1: the rest goes to the class token. Neither its own row nor its column counts.
        """
        return super().received(head)

    def saliency(self) -> Tensor:
        return self.class_row()
