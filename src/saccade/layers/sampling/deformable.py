"""Deformable attention, Xia et al. 2022."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_multiple, check_pair, check_positive, check_shape
from saccade.layers.sampling.spatial_transformer import spatial_transformer
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import GridMap, Tap
from saccade.ops.precision import no_autocast
from saccade.ops.recompute import attend_in_chunks


def deformable(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
    """Return the attention of a grid to sampled points, with a bias for the distance of each pair.

        a_pn = softmax_n(q_p . k_n / sqrt(D) + T((r_p - s_n) / 2))

    T interpolates the table bilinearly; -1 and 1 are its outermost entries, and 0 is outside. Queries are
    processed in chunks, and the backward pass computes their weights again, so that memory grows with the
    numbers of queries and points, not with their product.

    Args:
        query: Queries q, (B, heads, D, H, W), at the points r of a grid from -1 to 1.
        key: Keys k, (B, heads, n, D).
        value: Values, (B, heads, n, D).
        points: Sampled points s as (x, y), (B, groups, n, 2), for a divisor of the number of heads.
        table: Biases by distance, (heads, h, w).

    Returns:
        Weighted means of the values, (B, heads, H W, D).
    """
    queries = query.flatten(3).mT * query.shape[2] ** -0.5
    places = _grid(query.shape[3], query.shape[4], points)
    tables = (
        table.to(points.dtype).unflatten(0, (points.shape[1], -1)).expand(points.shape[0], -1, -1, -1, -1)
    )
    sliced = queries.to(key.dtype), places[None, None]
    return attend_in_chunks(_attend, sliced, (key, value, points, tables), key[..., 0])


def _attend(
    _start: int, q: Tensor, places: Tensor, k: Tensor, v: Tensor, points: Tensor, tables: Tensor
) -> Tensor:
    distances = (
        places[0, 0].unsqueeze(1) - points.flatten(0, 1).unsqueeze(1)
    ) / 2  # (B groups, queries, n, 2)
    bias = F.grid_sample(tables.flatten(0, 1), distances, align_corners=True)
    logits = q @ k.mT
    return (logits + bias.reshape(logits.shape)).softmax(-1).to(v.dtype) @ v


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the points (x, y) of a grid from -1 to 1, (H W, 2)."""
    axes = (2 * torch.arange(n, device=like.device, dtype=like.dtype) / (n - 1) - 1 for n in (height, width))
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


class Deformable(nn.Module):
    """Deformable attention: every position attends to points that are sampled where a small network says.

        o = f tanh(W_o GELU(LN(K * q))) / (H - 1, W - 1)        s_n = r_n + o_n
        k = W_k x(s) + b_k        v = W_v x(s) + b_v            q = W_q x + b_q
        y_p = W_y sum_n softmax_n(q_p . k_n / sqrt(D) + T((r_p - s_n) / 2)) v_n + b_y

    x(s) samples x bilinearly at the points s, which all positions share: the centers r of the map, moved by
    the offsets o. K is a depthwise 3 x 3 convolution, LN a layer norm over channels, both in `offset` with
    the 1 x 1 convolution W_o. D = C / heads, and T is the table of relative positions `table`, interpolated
    bilinearly. Channels are in groups, each with its own points; the heads of a group share them.

    The recorded map holds the sampled points of all groups.

    References:
        Xia, Pan, Song, Li, Huang: Vision Transformer with Deformable Attention, CVPR 2022 (equations 3 to 8).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        size: Height and width of the map, or one number for both; sets the size of the table. Other maps are
            accepted: the table is interpolated.
        heads: Number of heads, at least 1.
        groups: Number of groups, a divisor of `heads`.
        offset_range_factor: Factor f of the offsets, at least 0; or -1 for offsets without tanh, with the
            points clamped to [-1, 1], as in the released configurations of DAT++.

    Shape:
        - Input: (B, C, H, W), H and W at least 2.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If `size` is missing, C or the number of heads is not divisible, or an option is out of
            range.
        BadShape: For any other input shape.

    Note:
        The result is that of the authors' code with stride 1, an offset kernel of 3 and without dropout. As
        there, centers are (i + 0.5) / (H - 1) in units of the map, so that the last ones are outside, where
        the samples are 0. Time grows with N^2 for N positions.

    Example:
        >>> import torch
        >>> Deformable(32, size=(7, 5))(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        size: int | Sequence[int] | None = None,
        heads: int = 8,
        groups: int = 1,
        offset_range_factor: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("deformable", groups=groups)
        height, width = check_pair("deformable", size=size)
        check_multiple("deformable", channels, heads=heads)
        if heads % groups:
            raise bad_option("deformable", f"must divide heads={heads}", groups=groups)
        if not (offset_range_factor >= 0 or offset_range_factor == -1):
            raise bad_option(
                "deformable", "must be at least 0, or -1", offset_range_factor=offset_range_factor
            )
        self.channels, self.heads, self.groups = channels, heads, groups
        self.offset_range_factor = offset_range_factor
        part = channels // groups
        self.table = nn.Parameter(torch.empty(heads, 2 * height - 1, 2 * width - 1))
        self.offset = nn.Sequential(
            nn.Conv2d(part, part, 3, padding=1, groups=part),
            _ChannelNorm(part),
            nn.GELU(),
            nn.Conv2d(part, 2, 1, bias=False),
        )
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.tap = Tap()
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("deformable", x, "B C H W", C=self.channels)
        if min(x.shape[2:]) < 2:
            raise bad_shape("deformable", "needs at least 2 rows and 2 columns", x)
        query, grouped = self.query(x), (x.shape[0] * self.groups, -1, *x.shape[2:])
        points = self._points(query.reshape(grouped))
        if self.tap.recording:
            grid = points.detach().unflatten(0, (-1, self.groups)).flatten(1, 2)
            self.tap.publish(GridMap(grid, (x.shape[2], x.shape[3]), align_corners=True))
        with no_autocast(x):
            sampled = spatial_transformer(x.reshape(grouped), points, align_corners=True).reshape(x.shape)
        key, value = (f(sampled).unflatten(1, (self.heads, -1)).flatten(3).mT for f in (self.key, self.value))
        split = points.flatten(1, 2).unflatten(0, (-1, self.groups))
        means = deformable(query.unflatten(1, (self.heads, -1)), key, value, split, self.table)
        y: Tensor = self.proj(means.mT.reshape(x.shape))
        return y

    def _points(self, query: Tensor) -> Tensor:
        """Return the points (x, y) of each group, (B groups, H, W, 2), in float32 or higher precision."""
        offsets = self.offset(query)
        dtype = torch.promote_types(query.dtype, torch.float32)
        y, x = offsets.to(dtype).unbind(1)
        height, width = query.shape[2:]
        if self.offset_range_factor >= 0:
            y, x = (self.offset_range_factor * z.tanh() / (n - 1) for z, n in ((y, height), (x, width)))
        rows, columns = (
            2 * (torch.arange(n, device=y.device, dtype=dtype) + 0.5) / (n - 1) - 1 for n in (height, width)
        )
        points = torch.stack([x + columns, y + rows[:, None]], -1)
        return points if self.offset_range_factor >= 0 else points.clamp(-1, 1)


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


SPEC = Spec(
    name="deformable",
    domain="sampling",
    paper=Paper(
        "Vision Transformer with Deformable Attention",
        "Xia, Pan, Song, Li, Huang",
        2022,
        "https://arxiv.org/abs/2201.00520",
    ),
    summary="attend to points of the map that a small network moves",
    module=Deformable,
    function=deformable,
    examples=(
        Example("B C 8 6", {"size": (8, 6)}),
        Example("B C 5 7", {"size": 6, "heads": 4, "groups": 2}),
        Example("B C 8 6", {"size": (8, 6), "offset_range_factor": -1}),
    ),
    maps=(GridMap,),
    flow="x -> q -> [ | offsets -> sample x -> [k | v]] -> softmax, sum -> W_y -> y",
)
