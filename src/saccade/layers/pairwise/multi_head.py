"""Multi-head attention on sequences and images, Vaswani et al. 2017."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.narrow_attention import attention


def multi_head(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return the scaled dot-product attention of each head, concatenated over heads.

    Args:
        query: Projected queries, (B, Lq, C).
        key: Projected keys, (B, Lk, C).
        value: Projected values, (B, Lk, C).
        heads: Number of heads, a divisor of C. Head h, counted from 0, has the channels from h * C / heads
            on.

    Returns:
        Weighted means of the values, (B, Lq, C).
    """
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    attended = attention(q, k, v)
    return attended.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, L, C) to (B, heads, L, C / heads), the last axis contiguous as fused kernels need it."""
    batch, length, width = x.shape
    split = x.view(batch, length, heads, width // heads).transpose(1, 2)
    return split if split.stride(-1) == 1 else split.contiguous()


def sincos2d(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Return the fixed 2-D position encoding: sine and cosine of x, then of y, at C/4 frequencies.

    The frequencies are 10000^(-i / (C/4 - 1)) for i = 0 ... C/4 - 1.

    Args:
        height: Number of rows H.
        width: Number of columns W.
        channels: Number of channels C, a multiple of 4.
        like: Tensor that gives the device and the dtype.

    Returns:
        Encoding, (H * W, C).
    """
    quarter = channels // 4
    steps = torch.arange(quarter, device=like.device, dtype=torch.float32) / max(quarter - 1, 1)
    omega = 1 / 10000.0**steps
    ys = torch.arange(height, device=like.device, dtype=torch.float32)[:, None] * omega
    xs = torch.arange(width, device=like.device, dtype=torch.float32)[:, None] * omega
    ys, xs = ys[:, None].expand(-1, width, -1), xs[None].expand(height, -1, -1)
    return torch.cat([xs.sin(), xs.cos(), ys.sin(), ys.cos()], dim=-1).flatten(0, 1).to(like.dtype)


class MultiHead(nn.Module):
    """Multi-head attention: several scaled dot-product attentions in parallel.

        head_h = softmax(Q_h K_h^T / sqrt(C / heads)) V_h        y = W_o [head_1; ...; head_n] + b_o
        Q, K, V = projections of query, key and value, split into `heads` groups of channels

    h is a head, Q_h, K_h and V_h its groups of channels, and y the output. `in_proj_weight` and
    `in_proj_bias` hold the stacked projections W_q, W_k and W_v; `out_proj` holds W_o and b_o. These are the
    parameters of `torch.nn.MultiheadAttention` under the same names: its `state_dict` loads for projection
    "linear". The tokens of an image are its pixels in row-major order. The recorded map numbers heads from 0.

    References:
        Vaswani et al.: Attention Is All You Need, NeurIPS 2017 (section 3.2.2).

    Args:
        channels: Number of channels C.
        heads: Number of heads, a divisor of C.
        projection: "linear"; or a convolution along the tokens ("conv1d") or over the image ("conv2d").
        kernel_size: Kernel size of the convolutions: odd, with padding that keeps the size. 1 is the linear
            projection.
        residual: Whether to add the query to the output.
        norm: Whether to apply layer normalization to the result. With `residual`, this is the sub-layer of
            the paper.
        position: Position encoding added to the inputs of the projections: "none"; "sincos2d", a fixed
            encoding of row and column (images only, C a multiple of 4); or "learned", a table of `tokens`
            positions.
        tokens: Number of tokens of the learned table, L or H * W.

    Shape:
        - Query: (B, L, C) or (B, C, H, W).
        - Key: another length or size is allowed; by default, the query.
        - Value: the shape of the key; by default, the key.
        - Output: the shape of the query.

    Raises:
        BadOption: If an option is out of range, or options contradict each other.
        BadShape: For any other input shape.

    Note:
        Convolutional projections and position encodings of pixels are additions to the paper, for images.

    Example:
        >>> import torch
        >>> MultiHead(64, heads=4)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
        >>> MultiHead(64, projection="conv2d", kernel_size=3)(torch.randn(2, 64, 9, 7)).shape
        torch.Size([2, 64, 9, 7])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        projection: Literal["linear", "conv1d", "conv2d"] = "linear",
        kernel_size: int = 1,
        residual: bool = False,
        norm: bool = False,
        position: Literal["none", "sincos2d", "learned"] = "none",
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("multi_head", heads=heads, kernel_size=kernel_size)
        check_choice("multi_head", "projection", projection, ("linear", "conv1d", "conv2d"))
        check_choice("multi_head", "position", position, ("none", "sincos2d", "learned"))
        if channels % heads:
            raise bad_option("multi_head", f"is not divisible by heads={heads}", channels=channels)
        if kernel_size % 2 == 0:
            raise bad_option("multi_head", "must be odd to keep the token count", kernel_size=kernel_size)
        if projection == "linear" and kernel_size != 1:
            raise bad_option("multi_head", "needs projection='conv1d' or 'conv2d'", kernel_size=kernel_size)
        if position == "sincos2d" and channels % 4:
            raise bad_option("multi_head", "must be a multiple of 4 for sincos2d", channels=channels)
        if (position == "learned") != (tokens is not None):
            expected = f"must be set for position='learned' and for no other, got position={position!r}"
            raise bad_option("multi_head", expected, tokens=tokens)
        self.channels, self.heads = channels, heads
        self.projection, self.position, self.residual = projection, position, residual
        kernel = {"linear": (), "conv1d": (kernel_size,), "conv2d": (kernel_size, kernel_size)}[projection]
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels, *kernel))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        if tokens is not None:
            check_positive("multi_head", tokens=tokens)
            self.table = nn.Parameter(torch.empty(tokens, channels))
            nn.init.trunc_normal_(self.table, std=0.02)
        self.tap = Tap()
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        key = query if key is None else key
        value = key if value is None else value
        maps_only = self.projection == "conv2d" or self.position == "sincos2d"
        pattern = "B C H W" if query.ndim == 4 or maps_only else "B L C"
        check_shape("multi_head", query, pattern, C=self.channels)
        for x in (key, value):
            check_shape("multi_head", x, pattern, B=query.shape[0], C=self.channels)
        if key.shape != value.shape:
            raise bad_shape("multi_head", f"expected values of the keys' shape {tuple(key.shape)}", value)
        if query is key is value:  # one product
            q, k, v = self._convolve(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
            q, k, v = map(self._convolve, (query, key, value), weights, biases)
        if self.tap.recording:
            queries, keys = (split_heads(x, self.heads).detach() for x in (q, k))
            scale = (self.channels // self.heads) ** -0.5
            self.tap.publish(PairwiseMap(queries, keys, scale, _extent(query), _extent(key)))
        y: Tensor = self.out_proj(multi_head(q, k, v, self.heads))
        if self.residual:
            y = y + _tokens(query)
        y = self.norm(y)
        return y if query.ndim == 3 else y.transpose(1, 2).reshape(query.shape)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Project a sequence or an image to tokens, (B, L, len(bias))."""
        tokens = self._add_position(x)
        if self.projection == "linear":
            return F.linear(tokens, weight, bias)
        channels_first = tokens.transpose(1, 2)
        if self.projection == "conv1d":
            projected = F.conv1d(channels_first, weight, bias, padding="same")
        else:
            image = channels_first.unflatten(-1, x.shape[2:])
            projected = F.conv2d(image, weight, bias, padding="same").flatten(2)
        return projected.transpose(1, 2).contiguous()

    def _add_position(self, x: Tensor) -> Tensor:
        """Return the tokens of a sequence or an image with their position encoding added."""
        tokens = _tokens(x)
        if self.position == "sincos2d":
            return tokens + sincos2d(x.shape[2], x.shape[3], self.channels, like=x)
        if self.position == "learned":
            if tokens.shape[1] != len(self.table):
                expected = f"expected {len(self.table)} tokens for the position table"
                raise bad_shape("multi_head", f"{expected}, not {tokens.shape[1]}", x)
            return tokens + self.table
        return tokens


def _tokens(x: Tensor) -> Tensor:
    """Return (B, L, C) unchanged, (B, C, H, W) as (B, H * W, C)."""
    return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)


def _extent(x: Tensor) -> tuple[int, ...]:
    """Return the grid of the tokens: (L,) or (H, W)."""
    return (x.shape[1],) if x.ndim == 3 else tuple(x.shape[2:])


SPEC = Spec(
    name="multi_head",
    domain="pairwise",
    paper=Paper("Attention Is All You Need", "Vaswani et al.", 2017, "https://arxiv.org/abs/1706.03762"),
    summary="several query-key-value attentions in parallel",
    module=MultiHead,
    function=multi_head,
    examples=(
        Example("B C H W"),
        Example("B L C"),
        Example("B Q C, B K C, B K C", {"heads": 4}),
        Example("B C H W", {"projection": "conv1d", "kernel_size": 3}),
        Example("B L C", {"projection": "conv1d", "kernel_size": 3}),
        Example("B C H W", {"projection": "conv2d", "kernel_size": 3, "position": "sincos2d"}),
        Example("B C H W", {"residual": True, "norm": True, "position": "sincos2d"}),
        Example("B 10 C", {"position": "learned", "tokens": 10}),
    ),
    maps=(PairwiseMap,),
    unit="item",
    flow="[[query -> W_q | key -> W_k] -> products, softmax per head | value -> W_v] -> sum -> W_o -> y",
)
