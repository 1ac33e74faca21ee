"""Small transformers whose attention is computed in several ways, with the weights kept if asked for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WAYS = ("fused", "eager", "torch")  # torch: F.multi_head_attention_forward


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) / 2)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * width) / 2)
        self.out_proj = nn.Linear(width, width)
        self.num_heads, self.way = heads, "fused"
        self.weights: Any = None  # of the latest call, if they are kept

    def forward(self, x: Any, y: Any) -> Any:
        if self.way == "torch":
            x, y = x.transpose(0, 1), y.transpose(0, 1)
            out, _ = F.multi_head_attention_forward(
                x, y, y, x.shape[2], self.num_heads, self.in_proj_weight, self.in_proj_bias, None, None,
                False, 0.0, self.out_proj.weight, self.out_proj.bias, need_weights=False,
            )  # fmt: skip
            return out.transpose(0, 1)
        projected = zip((x, y, y), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(*z).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for z in projected)
        if self.way == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q @ k.mT * q.shape[3] ** -0.5).softmax(3)
            if self.way == "kept":
                weights.retain_grad()
                self.weights = weights
            out = weights @ v
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.attn: Any = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: Any, y: Any = None) -> Any:
        x = x + self.attn(x, x if y is None else y)
        return x + self.mlp(x)


class Transformer(nn.Module):
    """A transformer of images (B, 3, H, W) in patches of 4 x 4.

    Args:
        kind: "class" reads a class token, "mean" the mean of the tokens, "queries" one of three queries of a
            decoder, and "both" one of three tokens to which the image attends, too.
    """

    def __init__(self, kind: str, way: str = "fused", depth: int = 3) -> None:
        super().__init__()
        self.kind, width = kind, 8
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.head = nn.Linear(width, 5)
        if kind == "class":
            self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        if kind in ("queries", "both"):
            self.queries = nn.Parameter(torch.randn(1, 3, width))
            self.self_blocks = nn.ModuleList([Block() for _ in range(2)])
            self.cross_blocks = nn.ModuleList([Block() for _ in range(2)])
        if kind == "both":
            self.back_blocks = nn.ModuleList([Block() for _ in range(2)])
        self.set_way(way)

    def set_way(self, way: str) -> None:
        for module in self.modules():
            if isinstance(module, Attention):
                module.way = way

    def forward(self, images: Any) -> Any:
        x = self.patches(images).flatten(2).mT
        if self.kind == "class":
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        if self.kind == "class":
            return self.head(x[:, 0])
        if self.kind == "mean":
            return self.head(x.mean(1))
        q = self.queries.expand(len(x), -1, -1)
        for index, (block, cross) in enumerate(zip(self.self_blocks, self.cross_blocks, strict=True)):
            q = block(q)
            if self.kind == "both":
                q, x = cross(q, x), self.back_blocks[index](x, q)
            else:
                q = cross(q, x)
        return self.head(q[:, 1])

    def weighted(self, block: Any) -> Any:
        """Return equation 5 of Chefer et al. from the weights that were kept and their gradients."""
        weights = block.attn.weights
        return (weights * weights.grad).clamp(min=0).mean(1).detach()
