"""Maps of attention among tokens some of which have no position in the image: class tokens, registers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.errors import bad_option
from saccade.maps.pairwise import PairwiseMap, softmax_weights


@dataclass(frozen=True, eq=False)
class TokenMap(PairwiseMap):
    """Softmax weights between positions, in the presence of tokens without a position and of a logit bias.

        A = softmax(scale * q k^T + bias)

    `queries` and `keys` hold the positions alone, so that the grids describe them. Weights are exact: the
    softmax runs over all tokens, and a row restricted to the positions sums to 1 minus the weight of the
    extra tokens.

    Args:
        extra_queries: Queries of the tokens without a position, such as registers or a class token,
            (B, heads, T, D). T may be 0.
        extra_keys: Keys of the tokens without a position, (B, heads, T', D). T' may differ from T.
        bias: Values added to the logits, such as relative position biases or a mask of -inf, broadcastable to
            (B, heads, T + Nq, T' + Nk).

    Example:
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
        """Return the weights from `queries` to the positions.

        The remainder of the sum of 1 belongs to the tokens without a position.

        Args:
            queries: Queries, (B, heads, n, D).
            bias: Rows of the logit bias for these queries.

        Returns:
            Weights, (B, heads, n, Nk).
        """
        keys = torch.cat([self.extra_keys, self.keys], dim=2)
        return softmax_weights(queries, keys, self.scale, bias)[..., self.extra_keys.shape[2] :]

    def tokens(self) -> TokenMap:
        queries = torch.cat([self.extra_queries, self.queries], dim=2)
        keys = torch.cat([self.extra_keys, self.keys], dim=2)
        shapes = queries.shape[2:3], keys.shape[2:3]
        return TokenMap(queries, keys, self.scale, *shapes, queries[:, :, :0], keys[:, :, :0], self.bias)

    def rows_at(self, positions: slice) -> Tensor:
        bias = self._bias_rows(self.extra_queries.shape[2], positions)
        return self.rows(self.queries[:, :, positions], bias)

    def _bias_rows(self, first: int, rows: slice) -> Tensor | None:
        """Return rows of the bias, counted from `first`; an axis of size 1 is shared by all rows."""
        if self.bias is None or self.bias.shape[2] == 1:
            return self.bias
        return self.bias[:, :, first:][:, :, rows]


@dataclass(frozen=True, eq=False)
class UnplacedWindowMap(TokenMap):
    """Softmax weights within windows of an image whose places are unknown, so that no picture shows them.

    Each window counts as a head. The grids are the tokens of one window.

    Example:
        >>> import torch
        >>> q, none = torch.randn(1, 2 * 4, 6, 8), torch.randn(1, 2 * 4, 0, 8)         # 2 heads, 4 windows
        >>> pairs = UnplacedWindowMap(q, q, 8**-0.5, (6,), (6,), extra_queries=none, extra_keys=none)
        >>> pairs.weights().shape, pairs.has_place
        (torch.Size([1, 8, 6, 6]), False)
    """

    kind = "unplaced window"
    has_place = False


@dataclass(frozen=True, eq=False)
class ClassTokenMap(TokenMap):
    """A `TokenMap` whose first token without a position is the class token, which feeds the classifier.

    The heat map is the row of the class token, not the mean over queries. `attention_received` is the mean
    over the queries of positions, without the row and the column of the class token; it sums to less than 1,
    since the class token receives the remainder.

    Example:
        >>> import torch
        >>> q, c = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 1, 8)
        >>> pairs = ClassTokenMap(q, q, 8**-0.5, (3, 4), (3, 4), extra_queries=c, extra_keys=c)
        >>> pairs.class_row().shape               # weights of the class token
        torch.Size([1, 3, 4])
        >>> pairs.attention_from(y=2, x=3).sum().item() < 1
        True
    """

    def class_row(self, head: int | None = None) -> Tensor:
        """Return the weights of the class token, (B, *key_shape).

        Args:
            head: Head, counted from 0; by default, the mean over heads.
        """
        row = self.rows(self.extra_queries[:, :, :1], self._bias_rows(0, slice(1)))
        return self._select_head(row, head).reshape(-1, *self.key_shape)

    def class_mask(self, mass: float = 0.6, head: int | None = None) -> Tensor:
        """Return the fewest positions that hold a share of the class token's attention to all positions.

        References:
            Caron et al.: Emerging Properties in Self-Supervised Vision Transformers (DINO), ICCV 2021
            (section 4.2.2).

        Args:
            mass: The share, from 0 to 1.
            head: Head, counted from 0; by default, the mean over heads.

        Returns:
            Whether a position belongs to the mask, (B, *key_shape).

        Raises:
            BadOption: The share is out of range.
        """
        if not 0 < mass <= 1:
            raise bad_option(type(self).__name__, "must be above 0 and at most 1", mass=mass)
        row = self.class_row(head)
        sorted_row, order = row.flatten(1).sort(dim=1, descending=True)
        before = sorted_row.cumsum(1) - sorted_row
        chosen = before < mass * sorted_row.sum(1, keepdim=True)
        return torch.zeros_like(chosen).scatter(1, order, chosen).reshape(row.shape)

    def saliency(self) -> Tensor:
        return self.class_row()
