"""The Vision Transformer, Dosovitskiy et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import bad_option
from saccade.models.transformer import Block, Head, HeadKind, Kind, Pair, SelfAttention, Tokens, check_sizes

_EPS = 1e-6  # epsilon of the layer norms, as in the authors' code


class Embedding(nn.Module):
    """Linear embedding of tokens: (B, C, H, W) -> (B, count, width).

    Args:
        tokens: Tokens of the input.
        width: Width of the embedding.

    Example:
        >>> import torch
        >>> tokens = Tokens("demo", "patches", (32, 48))
        >>> Embedding(tokens, 64)(torch.randn(1, 3, 32, 48)).shape
        torch.Size([1, 6, 64])
    """

    def __init__(self, tokens: Tokens, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj: nn.Linear | nn.Conv2d
        if tokens.kind == "channels":
            self.proj = nn.Linear(tokens.width, width)
        else:
            self.proj = nn.Conv2d(tokens.channels, width, tokens.patch, stride=tokens.patch)
        nn.init.trunc_normal_(self.proj.weight, std=tokens.width**-0.5)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        by_channels = self.tokens.kind == "channels"
        y: Tensor = (
            self.proj(self.tokens.split(x)) if by_channels else self.proj(x).flatten(2).transpose(1, 2)
        )
        return y


class ViT(nn.Module):
    """Vision transformer with a class token among the tokens of an image, from which the output is computed.

        z_0 = [x_class; x_1 E; ...; x_N E] + E_pos                                      (1)
        z'_l = MSA(LN(z_{l-1})) + z_{l-1}        z_l = MLP(LN(z'_l)) + z'_l             (2, 3)
        y = W LN(z_L)^0 + b                                                             (4)

    x_i is a flattened patch, E is `patch_embed`, x_class is `cls_token`, E_pos is `pos_embed`, z_l are the
    tokens after layer l, MSA is multi-head self-attention, LN is `norm`, W and b are `head`, and y is the
    output. The defaults are those of ViT-B/16. With patches, the parameters are those of timm's vision
    transformers under the same names: their `state_dict` loads. Each layer records a `ClassTokenMap` as
    "blocks.NUMBER.attn", on the grid of patches or on the sequence of channel groups; its heat map is the row
    of the class token, and `attention_from` gives the row of a patch. Layers and heads are numbered from 0.

    References:
        Dosovitskiy et al.: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, ICLR
        2021.

    Args:
        image_size: Height and width of the input, or one number for both; by default 224, or 7 for tokens
            "channels".
        patch_size: Height and width of a patch, or one number for both; a divisor of the image size.
        classes: Number of logits of head "classes".
        width: Width of a token, a multiple of `heads`.
        depth: Number of layers L.
        heads: Number of attention heads.
        mlp_width: Width of the hidden layer of the MLP.
        channels: Number of input channels; by default 3, or 512 for tokens "channels".
        tokens: "patches" of an image; or "channels": groups of `group_size` neighboring channels of a feature
            map, each a token of group_size * H * W values.
        group_size: Number of channels of a group.
        head: "classes"; or "score", one number per image.

    Shape:
        - Input: (B, channels, H, W) of the size `image_size`.
        - Output: (B, classes) logits, or (B,) scores.

    Raises:
        BadOption: If an option is out of range, or sizes contradict each other.
        BadShape: For an image of any other size: the position table is never cropped.

    Note:
        There is no dropout. The head is initialized with a standard deviation of 0.02, not with 0. GELU is
        exact, as in the paper; the authors' JAX code uses the tanh approximation.

    Example:
        >>> import torch
        >>> model = ViT((32, 48), patch_size=8, classes=10, width=64, depth=2, heads=4, mlp_width=128)
        >>> model(torch.randn(2, 3, 32, 48)).shape
        torch.Size([2, 10])
        >>> model(torch.randn(2, 3, 32, 32))
        Traceback (most recent call last):
        saccade.errors.BadShape: ViT: expected (B, C=3, H=32, W=48), got (2, 3, 32, 32)
    """

    def __init__(
        self,
        image_size: int | Pair | None = None,
        patch_size: int | Pair = 16,
        classes: int = 1000,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_width: int = 3072,
        channels: int | None = None,
        tokens: Kind = "patches",
        group_size: int = 32,
        head: HeadKind = "classes",
    ) -> None:
        super().__init__()
        self.tokens = Tokens("ViT", tokens, image_size, channels, patch_size, group_size)
        check_sizes("ViT", head, width=width, depth=depth, heads=heads, mlp_width=mlp_width, classes=classes)
        if width % heads:
            raise bad_option("ViT", f"is not divisible by heads={heads}", width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.tokens.count, width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.patch_embed = Embedding(self.tokens, width)
        sizes, grid = (width, heads, width // heads), self.tokens.grid
        attentions = (SelfAttention(*sizes, grid, bias=True, class_token=True) for _ in range(depth))
        self.blocks = nn.Sequential(*(Block(attention, width, mlp_width, _EPS) for attention in attentions))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = Head(width, head, classes)

    def forward(self, images: Tensor) -> Tensor:
        self.tokens.check(images)
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.blocks(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits
