"""Building blocks of the vision transformers."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn

from saccade.errors import bad_option, check_choice, check_positive, check_shape
from saccade.layers.pairwise.multi_head import multi_head, split_heads
from saccade.maps import ClassTokenMap, PairwiseMap, Tap

Pair = tuple[int, int]
Kind = Literal["patches", "channels"]
HeadKind = Literal["classes", "score"]


class Tokens:
    """The way a model splits inputs of one fixed size into tokens.

    Args:
        owner: Name of the model, for error messages.
        kind: "patches": (B, C, H, W) is split into (H / p) x (W / q) patches of p x q pixels, in row-major
            order. "channels": it is split into C / g groups of g neighboring channels with all of their
            positions.
        image_size: Height and width of the input, or one number for both; default: 224, or 7 for "channels".
        channels: Number of input channels C; default: 3, or 512 for "channels".
        patch_size: Height and width of a patch, (p, q), or one number for both.
        group_size: Number of channels g of a group.

    Attributes:
        kind: The kind of the tokens.
        channels: Number of input channels.
        patch: Height and width of a patch.
        grid: Grid of the tokens: rows and columns of patches, or one axis of channel groups.
        count: Number of tokens.
        width: Number of values of a token.

    Raises:
        BadOption: If an option is out of range, or sizes contradict each other.

    Example:
        >>> import torch
        >>> groups = Tokens("demo", "channels", image_size=7, channels=512, group_size=32)
        >>> groups.split(torch.zeros(2, 512, 7, 7)).shape
        torch.Size([2, 16, 1568])
    """

    def __init__(
        self,
        owner: str,
        kind: Kind,
        image_size: int | Pair | None = None,
        channels: int | None = None,
        patch_size: int | Pair = 16,
        group_size: int = 32,
    ) -> None:
        check_choice(owner, "tokens", kind, get_args(Kind))
        default_size, default_channels = (224, 3) if kind == "patches" else (7, 512)
        height, width = pair(owner, "image_size", default_size if image_size is None else image_size)
        rows, columns = self.patch = pair(owner, "patch_size", patch_size)
        channels = default_channels if channels is None else channels
        check_positive(owner, channels=channels, group_size=group_size)
        if kind == "patches" and (height % rows or width % columns):
            expected = f"is not divisible by patch_size={rows} x {columns}"
            raise bad_option(owner, expected, image_size=(height, width))
        if kind == "channels" and channels % group_size:
            raise bad_option(owner, f"is not divisible by group_size={group_size}", channels=channels)
        self.owner, self.kind, self.channels, self.size = owner, kind, channels, (height, width)
        patches = (height // rows, width // columns)
        self.grid: tuple[int, ...] = patches if kind == "patches" else (channels // group_size,)
        self.count = math.prod(self.grid)
        self.width = channels * height * width // self.count

    def check(self, x: Tensor) -> None:
        """Raise `BadShape` unless `x` has the input size of the model."""
        check_shape(self.owner, x, "B C H W", C=self.channels, H=self.size[0], W=self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """Reshape (B, C, H, W) to (B, count, width). A patch lists its pixels with all their channels."""
        if self.kind == "patches":
            (rows, columns), (height, width) = self.grid, self.patch
            x = x.reshape(x.shape[0], self.channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(x.shape[0], self.count, self.width)


def pair(owner: str, name: str, value: int | Pair) -> Pair:
    """Return height and width from one number or two. Raises `BadOption`."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2:
        raise bad_option(owner, "must be one number, or height and width", **{name: value})
    for side in sides:
        check_positive(owner, **{name: side})
    return sides


def linear(width: int, out: int, *, bias: bool = True, parts: int = 1) -> nn.Linear:
    """Return a linear layer, initialized as in the code of both papers: Xavier uniform, biases 0.

    Args:
        width: Number of inputs.
        out: Number of outputs.
        bias: Whether the layer has biases.
        parts: Number of stacked maps, such as queries, keys and values; each is initialized on its own.
    """
    layer = nn.Linear(width, out, bias=bias)
    for part in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Head(nn.Linear):
    """The last layer, with small initial weights: features (B, width) -> logits (B, classes), or scores (B,).

    Args:
        width: Number of inputs.
        kind: "classes", or "score" for one score per image.
        classes: Number of classes.

    Example:
        >>> import torch
        >>> Head(32, "score", classes=10)(torch.randn(4, 32)).shape
        torch.Size([4])
    """

    def __init__(self, width: int, kind: HeadKind, classes: int) -> None:
        super().__init__(width, classes if kind == "classes" else 1)
        self.kind = kind
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits[:, 0] if self.kind == "score" else logits


class SelfAttention(nn.Module):
    """Multi-head self-attention among tokens (B, N, width) on a grid, with an optional class token in front.

    The recorded map is a `PairwiseMap` of the grid, or a `ClassTokenMap` with a class token.

    Args:
        width: Width of a token.
        heads: Number of heads.
        head_width: Width of the queries and keys of a head.
        grid: Grid of the tokens.
        bias: Whether the projections have biases.
        class_token: Whether the first token is a class token.

    Example:
        >>> import torch
        >>> SelfAttention(32, 2, 8, (3, 4), bias=False)(torch.randn(1, 12, 32)).shape
        torch.Size([1, 12, 32])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        grid: tuple[int, ...],
        *,
        bias: bool,
        class_token: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.grid, self.class_token = heads, head_width, grid, class_token
        self.qkv = linear(width, 3 * heads * head_width, bias=bias, parts=3)
        self.proj = linear(heads * head_width, width, bias=bias)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.tap.recording:
            self.tap.publish(self._map(*(split_heads(part.detach(), self.heads) for part in (q, k))))
        y: Tensor = self.proj(multi_head(q, k, v, self.heads))
        return y

    def _map(self, queries: Tensor, keys: Tensor) -> PairwiseMap:
        scale, grid = self.head_width**-0.5, self.grid
        if not self.class_token:
            return PairwiseMap(queries, keys, scale, grid, grid)
        class_token = {"extra_queries": queries[:, :, :1], "extra_keys": keys[:, :, :1]}
        return ClassTokenMap(queries[:, :, 1:], keys[:, :, 1:], scale, grid, grid, **class_token)


class Block(nn.Module):
    """One pre-norm transformer layer.

        x <- x + Attention(LN(x))        x <- x + W2 GELU(W1 LN(x) + b1) + b2

    Args:
        attention: Self-attention layer.
        width: Width of a token.
        mlp_width: Width of the hidden layer of the MLP.
        eps: Epsilon of the layer norms.

    Example:
        >>> import torch
        >>> Block(SelfAttention(32, 2, 16, (12,), bias=True), 32, 64, eps=1e-6)(torch.randn(1, 12, 32)).shape
        torch.Size([1, 12, 32])
    """

    def __init__(self, attention: SelfAttention, width: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=eps)
        layers = {"fc1": linear(width, mlp_width), "act": nn.GELU(), "fc2": linear(mlp_width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def check_sizes(owner: str, head: str, **sizes: int) -> None:
    """Raise `BadOption` if a size or the head is not valid for a vision transformer."""
    check_choice(owner, "head", head, get_args(HeadKind))
    check_positive(owner, **sizes)
