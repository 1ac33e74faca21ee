"""Attention in shifted windows, Liu et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._torch import is_transformed
from saccade.errors import bad_option, check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import Tap, WindowMap
from saccade.ops.chunks import is_precise
from saccade.ops.windows import cut_windows, missing, needs_padding

_FEW = 256  # positions of a window up to which a CPU is faster with all weights than with the fused kernel


def window(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + bias) v in each window and head.

    Args:
        query: Queries q of the n positions of each window, (B, windows, heads, n, D).
        key: Keys k, (B, windows, heads, n, D).
        value: Values v, (B, windows, heads, n, D).
        bias: Values added to the logits, (heads, n, n), or (windows, heads, n, n) if windows differ.

    Returns:
        Weighted means of the values, (B, windows, heads, n, D).
    """
    if query.device.type == "cpu" and query.shape[-2] <= _FEW and is_precise(query) and not is_transformed():
        logits: Tensor = query.shape[-1] ** -0.5 * query @ key.mT
        if bias is not None:
            logits += bias
        return logits.softmax(-1) @ value
    # Fused kernels take four axes: windows join the batch if they share the bias, otherwise the heads.
    joined = (0, 1) if bias is None or bias.ndim == 3 else (1, 2)
    mask = bias.flatten(0, 1) if bias is not None and bias.ndim == 4 else bias
    q, k, v = (x.flatten(*joined) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(query.shape)


class Window(nn.Module):
    """Window attention: multi-head attention among the positions of each window of a grid.

        a_ij = softmax_j(q_i . k_j / sqrt(C / h) + b_(i - j) + m_ij)        y_i = W_o sum_j a_ij v_j + b_o

    i and j are positions of one window of `size` x `size`. q, k and v are the projections `qkv` of x, split
    into h heads, W_o and b_o are `proj`. b is the relative position bias of a head, a table with one entry
    for each of the (2 size - 1)^2 offsets i - j (`relative_position_bias_table`). With `shift`, the windows
    are shifted cyclically, and m is -100 for pairs that are not neighbors in the image; otherwise m is 0. y
    is the output, without a residual connection.

    References:
        Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo: Swin Transformer: Hierarchical Vision Transformer using
        Shifted Windows, ICCV 2021 (section 3.2, equation 4).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        size: Height and width of a window, at least 1.
        heads: Number of heads h, at least 1.
        shift: Rows and columns by which windows are shifted, from 0 to size - 1. The paper alternates 0 and
            size // 2.
        bias: Whether logits have the relative position bias.
        qkv_bias: Whether `qkv` has a bias.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        The authors' classification code requires that windows divide the map. Here, other maps are padded
        at the bottom and on the right, as in the authors' detection code, but padding has no weight. As in
        the authors' code, windows are not shifted if a side of the map is not longer than `size`; they also
        reduce the window to this side, and here it is padded. Weights and the table are initialized from a
        truncated normal distribution with a standard deviation of 0.02, as in the authors' network. Dropout
        is left out.

    Example:
        >>> import torch
        >>> Window(32, size=4, shift=2)(torch.randn(2, 32, 9, 7)).shape
        torch.Size([2, 32, 9, 7])
    """

    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        size: int = 7,
        heads: int = 8,
        shift: int = 0,
        bias: bool = True,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_positive("window", size=size)
        if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < size:
            raise bad_option("window", f"must be an integer from 0 to size - 1 = {size - 1}", shift=shift)
        check_multiple("window", channels, heads=heads)
        self.channels, self.size, self.heads, self.shift = channels, size, heads, shift
        self.bias = bias
        if bias:
            offsets = (2 * size - 1) ** 2
            self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            self.register_buffer("relative_position_index", _relative_index(size))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.tap = Tap()
        for layer in (self.qkv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("window", x, "B C H W", C=self.channels)
        height, width = x.shape[2:]
        shift = self.shift if min(height, width) > self.size else 0
        q, k, v = self._cut(self.qkv(x.permute(0, 2, 3, 1)), shift).unbind(0)
        bias = self._bias(x, shift)
        if self.tap.recording:
            self._publish(q, k, bias, shift, (height, width))
        y: Tensor = self.proj(self._join(window(q, k, v, bias), height, width, shift))
        return y.permute(0, 3, 1, 2)

    def _cut(self, projected: Tensor, shift: int) -> Tensor:
        """Cut (B, H, W, 3 C) into queries, keys and values of windows, (3, B, windows, heads, n, D)."""
        _, height, width, _ = projected.shape
        size = self.size
        if needs_padding(height, width, size):  # by zeros, although qkv has a bias: padding has no weight
            projected = F.pad(projected, (0, 0, 0, missing(width, size), 0, missing(height, size)))
        if shift:
            projected = projected.roll((-shift, -shift), (1, 2))
        parts = projected.unflatten(3, (3, self.heads, -1)).unflatten(2, (-1, size)).unflatten(1, (-1, size))
        windows: Tensor = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3)
        return windows

    def _join(self, y: Tensor, height: int, width: int, shift: int) -> Tensor:
        """Join windows, (B, windows, heads, n, D), to (B, H, W, C)."""
        size, columns = self.size, (width - 1) // self.size + 1
        parts = y.unflatten(3, (size, size)).unflatten(1, (-1, columns))
        grid: Tensor = parts.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        if shift:
            grid = grid.roll((shift, shift), (1, 2))
        if torch.compiler.is_exporting():  # a slice would restrict the program to maps that are padded
            inside = [torch.arange(extent, device=grid.device) for extent in (height, width)]
            return grid.index_select(1, inside[0]).index_select(2, inside[1])
        return grid[:, :height, :width]

    def _bias(self, x: Tensor, shift: int) -> Tensor | None:
        """Return what is added to the logits: relative position biases and masks."""
        height, width = x.shape[2:]
        bias = None
        if self.bias:
            n = self.size**2
            table = self.relative_position_bias_table[self.relative_position_index.flatten()]
            bias = table.unflatten(0, (n, n)).permute(2, 0, 1)
        if not (shift or needs_padding(height, width, self.size)):
            return bias
        places, mask = self._windows(height, width, shift, x.device)
        dtype = self.qkv.weight.dtype
        mask = mask.to(dtype).masked_fill(places[:, None] < 0, torch.finfo(dtype).min).unsqueeze(1)
        return mask.expand(-1, self.heads, -1, -1) if bias is None else bias + mask

    def _windows(self, height: int, width: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return cut_windows((height, width), (self.size,) * 2, (shift,) * 2, device, pad_first=True)

    def _publish(self, q: Tensor, k: Tensor, bias: Tensor | None, shift: int, grid: tuple[int, int]) -> None:
        places, mask = self._windows(*grid, shift, q.device)
        logits = mask[:1, None] if bias is None else bias if bias.ndim == 4 else bias.unsqueeze(0)
        self.tap.publish(
            WindowMap(
                q.detach().transpose(1, 2),
                k.detach().transpose(1, 2),
                (self.channels // self.heads) ** -0.5,
                grid,
                grid,
                places=places,
                bias=logits.detach().transpose(0, 1),
            )
        )


def _relative_index(size: int) -> Tensor:
    """Return the row of the table for each pair of positions of a window, (n, n)."""
    steps = torch.arange(size)
    offsets = steps[:, None] - steps + size - 1
    rows, columns = offsets[:, None, :, None], offsets[None, :, None, :]
    return ((2 * size - 1) * rows + columns).flatten(2).flatten(0, 1)


SPEC = Spec(
    name="window",
    domain="pairwise",
    paper=Paper(
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo",
        2021,
        "https://arxiv.org/abs/2103.14030",
    ),
    summary="multi-head attention among the positions of each window, shifted or not",
    module=Window,
    function=window,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"size": 4, "shift": 2, "heads": 4}),
        Example("B C H W", {"size": 2, "bias": False, "qkv_bias": False}),
    ),
    maps=(WindowMap,),
    flow="x -> windows -> [[query | key] -> products, bias, softmax | value] -> sum -> W_o -> y",
)
