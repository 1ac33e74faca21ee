"""Self-attention with relative positions of Bottleneck Transformers, Srinivas et al. 2021."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saccade.errors import check_multiple, check_pair, check_positive, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import make_divisible
from saccade.maps import PairwiseMap, Tap
from saccade.ops.recompute import attend_in_chunks


def bottleneck(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the attention of a grid to itself, with logits of the key's row and of its column.

        a_pn = softmax_n(q_p . k_n + rows_p,y(n) + columns_p,x(n))

    Memory grows with the number N of positions, not with N^2, see `saccade.ops.recompute`.

    Args:
        query: Queries q, (B, heads, N, D), scaled.
        key: Keys k, (B, heads, N, D).
        value: Values, (B, heads, N, E).
        rows: Logits of each query for the rows of the grid, (B, heads, N, H).
        columns: Logits of each query for the columns of the grid, (B, heads, N, W).

    Returns:
        Weighted means of the values, (B, heads, N, E).
    """
    return attend_in_chunks(_attend, (query, rows, columns), (key, value), key[..., 0])


def _attend(_start: int, q: Tensor, rows: Tensor, columns: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.mT
    positions = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(3)
    return (logits + positions).softmax(-1) @ v


class RelativePosition(nn.Module):
    """Logits of a query for the rows and the columns around it: products with embeddings of the distance.

    Args:
        height: Number of rows H of the keys.
        width: Number of columns W of the keys.
        channels: Width D of a query.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.height_rel = nn.Parameter(torch.empty(2 * height - 1, channels))
        self.width_rel = nn.Parameter(torch.empty(2 * width - 1, channels))
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=channels**-0.5)

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (..., h, w, H) and (..., h, w, W) of queries (..., h, w, D)."""
        height, width = query.shape[-3:-1]
        rows = torch.einsum("...yxd,yzd->...yxz", query, _by_distance(self.height_rel, height))
        columns = torch.einsum("...yxd,xzd->...yxz", query, _by_distance(self.width_rel, width))
        return rows, columns


def _by_distance(table: Tensor, count: int) -> Tensor:
    """Return embeddings of distances from query i to key j, (count, n, D), in a table (2 n - 1, D)."""
    n = (table.shape[0] + 1) // 2
    queries, keys = (torch.arange(extent, device=table.device) for extent in (count, n))
    return table[keys - queries[:, None] + n - 1]


class Bottleneck(nn.Module):
    """All-to-all self-attention of Bottleneck Transformers, by content and by relative row and column.

        y_p = sum_n softmax_n(s q_p . k_n + q_p . r^h_y(n)-y(p) + q_p . r^w_x(n)-x(p)) v_n

    q, k and v are the parts of `qkv`, a 1 x 1 convolution of x, in heads; p and n are positions of the map, y
    and x their row and column. r^h and r^w are the tables `height_rel` and `width_rel` of `pos_embed`,
    shared by the heads, and s = D^-0.5 for queries of width D. y is the output; there is no output
    projection.

    References:
        Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani: Bottleneck Transformers for Visual Recognition, CVPR
        2021 (figure 4).

    Args:
        channels: Number of channels C, a multiple of `num_heads`.
        feat_size: Height and width of the map, or one number for both: the tables belong to one size.
        num_heads: Number of heads, at least 1.
        dim_head: Width D of queries and keys of a head; by default, `qk_ratio` C, rounded to a multiple of 8,
            divided by the number of heads.
        qk_ratio: Ratio of the width of queries and keys to C, above 0.
        qkv_bias: Whether `qkv` has a bias.
        scale_pos_embed: Whether s multiplies the logits of positions, too.

    Shape:
        - Input: (B, C, H, W) of `feat_size`.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If `feat_size` is missing, C is not a multiple of the number of heads, no width is left for
            queries, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        The result, the names of parameters and the options are those of timm's `BottleneckAttn`, whose
        `state_dict` loads, without its options for another output size, `dim_out` and `stride`. Weights are
        computed for a few queries at a time and again in the backward pass.

    Example:
        >>> import torch
        >>> Bottleneck(32, feat_size=(7, 5))(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        feat_size: int | Sequence[int] | None = None,
        num_heads: int = 4,
        dim_head: int | None = None,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__()
        check_positive_number("bottleneck", qk_ratio=qk_ratio)
        self.size = check_pair("bottleneck", feat_size=feat_size)
        check_multiple("bottleneck", channels, num_heads=num_heads)
        width = make_divisible(channels * qk_ratio) // num_heads if dim_head is None else dim_head
        check_positive("bottleneck", dim_head=width)
        self.channels, self.heads, self.width = channels, num_heads, width
        self.scale_pos_embed = scale_pos_embed
        self.qkv = nn.Conv2d(channels, 2 * num_heads * width + channels, 1, bias=qkv_bias)
        self.pos_embed = RelativePosition(*self.size, width)
        self.tap = Tap()
        nn.init.trunc_normal_(self.qkv.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        check_shape("bottleneck", x, "B C H W", C=self.channels, H=height, W=width)
        inner, scale = self.heads * self.width, self.width**-0.5
        parts = self.qkv(x).flatten(2).split([inner, inner, self.channels], 1)
        q, k, v = (z.unflatten(1, (self.heads, -1)).mT for z in parts)
        rows, columns = self.pos_embed(q.unflatten(2, self.size))
        if self.scale_pos_embed:
            rows, columns = rows * scale, columns * scale
        factors = q * scale, k, v, rows.flatten(2, 3), columns.flatten(2, 3)
        if self.tap.recording:
            self._publish(*(z.detach() for z in factors))
        return bottleneck(*factors).mT.reshape(x.shape)

    def _publish(self, q: Tensor, k: Tensor, _v: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Publish the logits as products: those of positions are products with unit vectors of the key."""
        height, width = self.size
        y, x = (torch.eye(n, dtype=k.dtype, device=k.device) for n in self.size)
        units = torch.cat([y.repeat_interleave(width, 0), x.repeat(height, 1)], 1)
        keys = torch.cat([k, units.expand(*k.shape[:2], -1, -1)], 3)
        self.tap.publish(PairwiseMap(torch.cat([q, rows, columns], 3), keys, 1.0, self.size, self.size))


SPEC = Spec(
    name="bottleneck",
    domain="pairwise",
    paper=Paper(
        "Bottleneck Transformers for Visual Recognition",
        "Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani",
        2021,
        "https://arxiv.org/abs/2101.11605",
    ),
    summary="attend to all positions by content and by relative row and column",
    module=Bottleneck,
    function=bottleneck,
    examples=(
        Example("B C 8 6", {"feat_size": (8, 6)}),
        Example("B C 5 7", {"feat_size": (5, 7), "num_heads": 8, "qkv_bias": True, "scale_pos_embed": True}),
        Example("B C 6 6", {"feat_size": 6, "dim_head": 5}),
    ),
    maps=(PairwiseMap,),
    flow="x -> qkv -> [[q -> [ | r^h, r^w] | k] -> add, softmax | v] -> sum -> y",
)
