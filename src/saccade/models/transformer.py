"""Building blocks of the vision transformers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn

from saccade.errors import check_choice, check_positive
from saccade.layers.pairwise.multi_head import multi_head, split_heads
from saccade.maps import ClassTokenMap, PairwiseMap, Tap

HeadKind = Literal["classes", "score"]


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
