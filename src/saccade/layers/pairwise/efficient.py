"""Efficient attention with linear complexity, Shen et al. 2021."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import bad_option, check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import DotProductMap, Tap


def efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return (v k^T) q for normalized queries and keys: two products that are linear in the positions.

    Args:
        query: Queries q, (B, heads, D, N), with sums over the D channels of 1.
        key: Keys k, (B, heads, D, N), with sums over the N positions of 1.
        value: Values v, (B, heads, E, N).

    Returns:
        Weighted means of the values, (B, heads, E, N).
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    return (value @ key.mT) @ query


class Efficient(nn.Module):
    """Efficient attention: adds to each position a mixture of global context vectors.

        q_i = softmax_c(W_q x_i + b_q)        k = softmax_j(W_k x + b_k)        v = W_v x + b_v
        y_i = x_i + W_o [sum_c q_ic sum_j k_cj v_j] + b_o

    i and j are positions and c is a channel of queries and keys. Channels are split into h heads, whose
    results are concatenated ([]). The softmax of queries runs over the channels of a head, that of keys over
    positions; there is no further scale. All W are 1 x 1 convolutions: `keys`, `queries`, `values` and
    `reprojection`. Each of the channels c of the keys is one attention map of the image, and the sum over j
    its context vector. y is the output.

    Recording gives the weight of position j for position i, sum_c q_ic k_cj, which sums to 1.

    References:
        Shen, Zhang, Zhao, Yi, Li: Efficient Attention: Attention with Linear Complexities, WACV 2021
        (equation 3, with the normalization by softmax).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        key_channels: Number of channels of queries and keys, a multiple of `heads`; by default, C.
        heads: Number of heads h, at least 1.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C or `key_channels` is not a multiple of `heads`, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code with C channels of values. The cost grows linearly with the
        number of positions.

    Example:
        >>> import torch
        >>> Efficient(32, key_channels=16)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, key_channels: int | None = None, heads: int = 8) -> None:
        super().__init__()
        check_multiple("efficient", channels, heads=heads)
        key_channels = channels if key_channels is None else key_channels
        check_positive("efficient", key_channels=key_channels)
        if key_channels % heads:
            raise bad_option("efficient", f"must be a multiple of heads={heads}", key_channels=key_channels)
        self.channels, self.heads = channels, heads
        self.keys = nn.Conv2d(channels, key_channels, 1)
        self.queries = nn.Conv2d(channels, key_channels, 1)
        self.values = nn.Conv2d(channels, channels, 1)
        self.reprojection = nn.Conv2d(channels, channels, 1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("efficient", x, "B C H W", C=self.channels)
        queries = self._split(self.queries(x)).softmax(2)
        keys = self._split(self.keys(x)).softmax(3)
        if self.tap.recording:
            shape = tuple(x.shape[2:])
            self.tap.publish(DotProductMap(queries.detach().mT, keys.detach().mT, 1.0, shape, shape))
        mixed = efficient(queries, keys, self._split(self.values(x)))
        y: Tensor = self.reprojection(mixed.reshape(x.shape))
        return y + x

    def _split(self, x: Tensor) -> Tensor:
        """Split (B, C, H, W) into heads, (B, heads, D, N)."""
        heads: Tensor = x.flatten(2).unflatten(1, (self.heads, -1))
        return heads


SPEC = Spec(
    name="efficient",
    domain="pairwise",
    paper=Paper(
        "Efficient Attention: Attention with Linear Complexities",
        "Shen, Zhang, Zhao, Yi, Li",
        2021,
        "https://arxiv.org/abs/1812.01243",
    ),
    summary="add to each position a mixture of context vectors, in time linear in the positions",
    module=Efficient,
    function=efficient,
    examples=(Example("B C H W"), Example("B C H W", {"key_channels": 12, "heads": 4})),
    maps=(DotProductMap,),
    flow="x -> [[key -> softmax | value] -> contexts | query -> softmax | ] -> mix -> W_o, add -> y",
)
