"""Scaled dot-product attention, Vaswani et al. 2017."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.narrow_attention import attention


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale * q k^T) v for each head.

    Args:
        query: Queries q, (B, Lq, heads, D).
        key: Keys k, (B, Lk, heads, D).
        value: Values v, (B, Lk, heads, D).
        scale: Factor of the logits; by default, D^-0.5.

    Returns:
        Weighted means of the values, (B, Lq, heads, D).

    Example:
        >>> import torch
        >>> q, k = torch.randn(128, 32, 1, 256), torch.randn(128, 16, 1, 256)
        >>> scaled_dot_product(q, k, k).shape
        torch.Size([128, 32, 1, 256])
    """
    # Unless the last axis is contiguous, torch silently builds the Lq x Lk matrix.
    q, k, v = (
        x.transpose(1, 2) if x.stride(-1) == 1 else x.transpose(1, 2).contiguous()
        for x in (query, key, value)
    )
    return attention(q, k, v, scale).transpose(1, 2)


def checked_sequences(
    owner: str, channels: int, query: Tensor, key: Tensor | None, value: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of one width, with defaults filled in, or raise `BadShape`."""
    key = query if key is None else key
    value = key if value is None else value
    check_shape(owner, query, "B Lq heads D", D=channels)
    same = {"B": query.shape[0], "heads": query.shape[2], "D": channels}
    check_shape(owner, key, "B Lk heads D", **same)
    check_shape(owner, value, "B Lk heads D", Lk=key.shape[1], **same)
    return query, key, value


class ScaledDotProduct(nn.Module):
    """Scaled dot-product attention between two sequences, without parameters.

        Attention(Q, K, V) = softmax(Q K^T / sqrt(D)) V

    Q holds the queries, K the keys and V the values; D is the width of a head. The softmax runs over the
    keys. The weights are never built: the fused attention of torch computes the same sum. The recorded map
    holds the weights (B, heads, Lq, Lk) as factors; heads are numbered from 0.

    References:
        Vaswani et al.: Attention Is All You Need, NeurIPS 2017 (equation 1).

    Args:
        channels: Width D of a head.

    Shape:
        - Query: (B, Lq, heads, D).
        - Key: (B, Lk, heads, D); by default, the query.
        - Value: (B, Lk, heads, D); by default, the key.
        - Output: (B, Lq, heads, D).

    Raises:
        BadShape: If inputs differ in width, heads or batch size, or keys and values differ in length.

    Example:
        >>> import torch
        >>> attention = ScaledDotProduct(256)
        >>> attention(torch.randn(4, 32, 1, 256), torch.randn(4, 16, 1, 256)).shape
        torch.Size([4, 32, 1, 256])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.tap = Tap()

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        query, key, value = checked_sequences("scaled_dot_product", self.channels, query, key, value)
        if self.tap.recording:
            q, k = query.detach().transpose(1, 2), key.detach().transpose(1, 2)
            shapes = (query.shape[1],), (key.shape[1],)
            self.tap.publish(PairwiseMap(q, k, self.channels**-0.5, *shapes))
        return scaled_dot_product(query, key, value)


SPEC = Spec(
    name="scaled_dot_product",
    domain="pairwise",
    paper=Paper("Attention Is All You Need", "Vaswani et al.", 2017, "https://arxiv.org/abs/1706.03762"),
    summary="mix values by the softmax of query-key products",
    module=ScaledDotProduct,
    function=scaled_dot_product,
    examples=(Example("B Q h C, B K h C, B K h C"), Example("B L h C")),
    maps=(PairwiseMap,),
    unit="item",
    flow="[[query | key] -> scaled products -> softmax over keys | value] -> weighted sum -> y",
)
