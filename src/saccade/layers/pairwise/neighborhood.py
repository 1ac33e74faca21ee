"""Neighborhood attention, Hassani et al. 2023."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import NeighborhoodMap, Tap
from saccade.ops.neighborhood_attention import neighborhood_attention


def neighborhood(query: Tensor, key: Tensor, value: Tensor, size: int = 7, dilation: int = 1) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v over the neighborhood of each position, for each head.

    Args:
        query: Queries q, (B, H, W, heads, D).
        key: Keys k, (B, H, W, heads, D).
        value: Values v, (B, H, W, heads, D).
        size: Height and width of a neighborhood, in neighbors.
        dilation: Distance of neighbors.

    Returns:
        Weighted means of the values, (B, H, W, heads, D).
    """
    return neighborhood_attention(query, key, value, size, dilation)


class Neighborhood(nn.Module):
    """Neighborhood attention: multi-head attention of each position to the positions around it.

        a_ij = softmax_j(q_i . k_j / sqrt(C / h)), j in N(i)        y_i = W_o sum_j a_ij v_j + b_o

    q, k and v are the projections `qkv` of x, split into h heads; W_o and b_o are `proj`. The neighborhood
    N(i) has size x size positions, `dilation` rows and columns apart, with i in the center. At a border it
    moves inward, so that it always has the same number of positions. y is the output, without a residual
    connection.

    References:
        Hassani, Walton, Li, Li, Shi: Neighborhood Attention Transformer, CVPR 2023 (equations 1 to 3).

        Hassani, Shi: Dilated Neighborhood Attention Transformer, 2022 (for `dilation`).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        size: Height and width of a neighborhood, in neighbors, at least 1. An even neighborhood has one
            position more before i than after it.
        heads: Number of heads h, at least 1.
        dilation: Distance of neighbors, at least 1.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        There is no relative position bias, as in today's NATTEN, the authors' library; the paper has one.
        NATTEN refuses maps with a side below size * dilation. Here, a neighborhood has all positions of such
        a side that are a multiple of `dilation` apart. Time and memory grow with H W size^2; see
        `saccade.ops.neighborhood_attention`. As in the authors' network, weights are initialized from a
        truncated normal distribution with a standard deviation of 0.02. Dropout is left out.

    Example:
        >>> import torch
        >>> Neighborhood(32, size=3, dilation=2)(torch.randn(2, 32, 9, 7)).shape
        torch.Size([2, 32, 9, 7])
    """

    def __init__(self, channels: int, size: int = 7, heads: int = 8, dilation: int = 1) -> None:
        super().__init__()
        check_positive("neighborhood", size=size, dilation=dilation)
        check_multiple("neighborhood", channels, heads=heads)
        self.channels, self.size, self.heads, self.dilation = channels, size, heads, dilation
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.tap = Tap()
        for layer in (self.qkv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("neighborhood", x, "B C H W", C=self.channels)
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).unflatten(3, (3, self.heads, -1)).unbind(3)
        if self.tap.recording:
            queries, keys = (z.detach().flatten(1, 2).transpose(1, 2) for z in (q, k))
            scale, grid = (self.channels // self.heads) ** -0.5, (x.shape[2], x.shape[3])
            pairs = NeighborhoodMap(queries, keys, scale, grid, grid, grid, self.size, self.dilation)
            self.tap.publish(pairs)
        y: Tensor = self.proj(neighborhood(q, k, v, self.size, self.dilation).flatten(3))
        return y.permute(0, 3, 1, 2)


SPEC = Spec(
    name="neighborhood",
    domain="pairwise",
    paper=Paper(
        "Neighborhood Attention Transformer",
        "Hassani, Walton, Li, Li, Shi",
        2023,
        "https://arxiv.org/abs/2204.07143",
    ),
    summary="multi-head attention of each position to the positions around it",
    module=Neighborhood,
    function=neighborhood,
    examples=(Example("B C H W"), Example("B C H W", {"size": 3, "heads": 4, "dilation": 2})),
    maps=(NeighborhoodMap,),
    flow="x -> [[query | key] -> products around i, softmax | value] -> sum -> W_o -> y",
)
