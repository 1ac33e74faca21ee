"""Halo attention, Vaswani et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import (
    bad_option,
    bad_shape,
    check_multiple,
    check_positive,
    check_positive_number,
    check_shape,
)
from saccade.layers.pairwise.bottleneck import RelativePosition
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import make_divisible
from saccade.maps import HaloMap, Tap
from saccade.ops.eager import is_eager
from saccade.ops.recompute import attend_in_chunks


def halo(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the attention of each block to its window, with logits of the key's row and of its column.

    Keys and values outside the map are 0 and take part in the softmax. A few rows of blocks are computed at a
    time, and again in the backward pass, so that neither all weights nor all windows are held.

    Args:
        query: Queries in blocks of b x b, (B, heads, H / b, W / b, b, b, D), scaled.
        key: Keys, (B, heads, H, W, D).
        value: Values, (B, heads, H, W, E).
        rows: Logits of each query for the m >= b rows of its window, (B, heads, H / b, W / b, b, b, m).
        columns: Logits of each query for the m columns of its window, of the same shape.

    Returns:
        Weighted means of the values, (B, heads, H, W, E).
    """
    margin = (rows.shape[-1] - query.shape[-2]) // 2
    keys, values = (F.pad(x, (0, 0, *4 * [margin])) for x in (key, value))
    band = rows[:, :, 0].unsqueeze(-1).expand(-1, -1, -1, -1, -1, -1, rows.shape[-1])  # for its size alone
    return attend_in_chunks(_attend, (query, rows, columns), (keys, values), band).flatten(2, 3)


def _attend(start: int, q: Tensor, rows: Tensor, columns: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the result of rows of blocks, (B, heads, blocks, b, W, E), from windows of padded k and v."""
    block, window = q.shape[-2], rows.shape[-1]
    band = slice(start * block, (start + q.shape[2] - 1) * block + window)
    keys, values = (_windows(x[:, :, band], block, window) for x in (k, v))
    logits = q.flatten(4, 5) @ keys
    positions = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4, 5).flatten(5)
    means = (logits + positions).softmax(-1) @ values.mT
    grid: Tensor = means.unflatten(4, (block, block)).transpose(3, 4).flatten(4, 5)
    return grid


def _windows(x: Tensor, block: int, window: int) -> Tensor:
    """Return the windows in a padded map (B, heads, H, W, D), (B, heads, blocks, blocks, D, m^2)."""
    if is_eager():
        unfolded: Tensor = x.unfold(2, window, block).unfold(3, window, block).flatten(5)
        return unfolded
    # The same in a form that can be exported to ONNX for maps of any size.
    steps = torch.arange(window, device=x.device)
    starts = (torch.arange((n - window) // block + 1, device=x.device) * block for n in x.shape[2:4])
    y, z = (start[:, None] + steps for start in starts)
    return x[:, :, y][:, :, :, :, z].permute(0, 1, 2, 4, 6, 3, 5).flatten(5)


class Halo(nn.Module):
    """Halo attention: the positions of a block attend to a window, the block and a halo around it.

        y_p = sum_n softmax_n(s q_p . k_n + q_p . r^h_y(n)-y(p) + q_p . r^w_x(n)-x(p)) v_n

    q is a 1 x 1 convolution of x, k and v are the parts of another one (`kv`), in heads; n runs over the
    window of the block that p is in, of `block_size` + 2 `halo_size` rows and columns. y and x are the row
    and the column of a position. r^h and r^w are the tables `height_rel` and `width_rel` of `pos_embed`,
    shared by the heads, and s = D^-0.5 for queries of width D. y is the output; there is no output
    projection. Outside the map, k and v are 0.

    References:
        Vaswani, Ramachandran, Srinivas, Parmar, Hechtman, Shlens: Scaling Local Self-Attention for Parameter
        Efficient Visual Backbones, CVPR 2021 (section 2.2).

    Args:
        channels: Number of channels C, a multiple of `num_heads`.
        num_heads: Number of heads, at least 1.
        dim_head: Width D of queries and keys of a head; by default, `qk_ratio` C, rounded to a multiple of 8,
            divided by the number of heads.
        block_size: Height and width of a block; height and width of the map are multiples of it.
        halo_size: Positions around a block that its window covers, at least 0.
        qk_ratio: Ratio of the width of queries and keys to C, above 0.
        qkv_bias: Whether q, k and v have biases.
        scale_pos_embed: Whether s multiplies the logits of positions, too.

    Shape:
        - Input: (B, C, H, W), H and W multiples of `block_size`.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of the number of heads, no width is left for queries, or an option
            is out of range.
        BadShape: For any other input shape.

    Note:
        The result, the names of parameters and the options are those of timm's `HaloAttn`, whose `state_dict`
        loads, without its options for another output size, `dim_out`, `stride` and `avg_down`. As there, keys
        outside the map are not masked: they take part in the softmax.

    Example:
        >>> import torch
        >>> Halo(32, block_size=4)(torch.randn(2, 32, 12, 8)).shape
        torch.Size([2, 32, 12, 8])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        dim_head: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__()
        check_positive("halo", block_size=block_size)
        check_positive_number("halo", qk_ratio=qk_ratio)
        if isinstance(halo_size, bool) or not isinstance(halo_size, int) or halo_size < 0:
            raise bad_option("halo", "must be an integer of at least 0", halo_size=halo_size)
        check_multiple("halo", channels, num_heads=num_heads)
        width = make_divisible(channels * qk_ratio) // num_heads if dim_head is None else dim_head
        check_positive("halo", dim_head=width)
        self.channels, self.heads, self.width = channels, num_heads, width
        self.block_size, self.halo_size, self.scale_pos_embed = block_size, halo_size, scale_pos_embed
        window = block_size + 2 * halo_size
        self.q = nn.Conv2d(channels, num_heads * width, 1, bias=qkv_bias)
        self.kv = nn.Conv2d(channels, num_heads * width + channels, 1, bias=qkv_bias)
        self.pos_embed = RelativePosition(window, window, width)
        self.tap = Tap()
        for conv in (self.q, self.kv):
            nn.init.trunc_normal_(conv.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("halo", x, "B C H W", C=self.channels)
        block, scale = self.block_size, self.width**-0.5
        if x.shape[2] % block or x.shape[3] % block:
            raise bad_shape("halo", f"needs a height and a width that are multiples of block_size={block}", x)
        # timm has keys and values of one head next to each other
        k, v = self._split(self.kv(x)).split([self.width, self.channels // self.heads], -1)
        q = self._split(self.q(x)).unflatten(3, (-1, block)).unflatten(2, (-1, block)).transpose(3, 4)
        rows, columns = self.pos_embed(q)
        if self.scale_pos_embed:
            rows, columns = rows * scale, columns * scale
        q = q * scale
        if self.tap.recording:
            self._publish(*(z.detach() for z in (q, k, rows, columns)))
        return halo(q, k, v, rows, columns).permute(0, 1, 4, 2, 3).flatten(1, 2)

    def _split(self, x: Tensor) -> Tensor:
        """Return (B, heads, H, W, D)."""
        split: Tensor = x.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2)
        return split

    def _publish(self, q: Tensor, k: Tensor, rows: Tensor, columns: Tensor) -> None:
        grid = (k.shape[2], k.shape[3])
        q, rows, columns = (z.transpose(3, 4).flatten(2, 5) for z in (q, rows, columns))
        block, margin = self.block_size, self.halo_size
        keys = k.flatten(2, 3)
        self.tap.publish(HaloMap(q, keys, 1.0, grid, grid, rows, columns, block, margin))


SPEC = Spec(
    name="halo",
    domain="pairwise",
    paper=Paper(
        "Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
        "Vaswani, Ramachandran, Srinivas, Parmar, Hechtman, Shlens",
        2021,
        "https://arxiv.org/abs/2103.12731",
    ),
    summary="let the positions of each block attend to the block and a halo around it",
    module=Halo,
    function=halo,
    examples=(
        Example("B C 16 8"),
        Example("B C 4 6", {"block_size": 2, "halo_size": 1, "num_heads": 4, "qkv_bias": True}),
        Example("B C 8 4", {"block_size": 4, "dim_head": 3, "scale_pos_embed": True}),
    ),
    maps=(HaloMap,),
    flow="x -> blocks, windows -> [[q -> [ | r^h, r^w] | k] -> softmax | v] -> sum -> y",
)
