"""The vision transformer, Dosovitskiy et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.models.tokens import Kind, Pair, Tokens
from saccade.models.transformer import Block, Head, SelfAttention, answer, check_sizes, head_of

_EPS = 1e-6  # of the layer norms, as in the authors' code


class Embedding(nn.Module):
    """Tokens through one affine map each: (B, C, H, W) -> (B, count, width).

    >>> import torch
    >>> tokens = Tokens.of("demo", "patches", (32, 48), 3, 16, 32)
    >>> Embedding(tokens, 64)(torch.randn(1, 3, 32, 48)).shape
    torch.Size([1, 6, 64])
    """

    def __init__(self, tokens: Tokens, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj: nn.Linear | nn.Conv2d = (
            nn.Linear(tokens.width, width)
            if tokens.kind == "channels"
            else nn.Conv2d(tokens.channels, width, tokens.patch, stride=tokens.patch)
        )
        nn.init.trunc_normal_(self.proj.weight, std=tokens.width**-0.5)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.tokens.kind == "channels":
            embedded: Tensor = self.proj(self.tokens.split(x))
        else:
            embedded = self.proj(x).flatten(2).transpose(1, 2)
        return embedded


class ViT(nn.Module):
    """Vision transformer: a class token among the tokens of an image, read out after `depth` layers.

        z_0 = [x_class; x_1 E; ...; x_N E] + E_pos                                      (1)
        z'_l = MSA(LN(z_{l-1})) + z_{l-1}        z_l = MLP(LN(z'_l)) + z'_l             (2, 3)
        y = W LN(z_L)^0 + b                                                             (4)

    Dosovitskiy et al.: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale,
    ICLR 2021. x_i a flattened patch, E `patch_embed`, x_class `cls_token`, E_pos `pos_embed`, LN `norm`, W
    and b `head`. The defaults are ViT-B/16. With patches, these are the parameters of timm's vision
    transformers under its names: their `state_dict` loads.

    images (B, channels, H, W) of the one size `image_size` -> logits (B, classes), or scores (B,).

    image_size    height and width, or one number for both; 224, or 7 with tokens "channels"
    patch_size    height and width of a patch, or one number for both; it divides the image
    classes       number of logits of the head "classes"
    channels      of the input; 3, or 512 with tokens "channels"
    tokens        "patches" of an image; or "channels": a feature map is cut into groups of `group_size`
                  neighboring channels, each a token of group_size * H * W values
    head          "classes"; or "score", one number per image

    Every layer records a `ClassTokenMap` as "blocks.NUMBER.attn": the grid is that of the patches, or the
    row of channel groups; its heat map is where the class token looks, `attend` where a patch looks.

    Deviations: no dropout. The head does not start at 0, but from numbers of standard deviation 0.02. GELU is
    the paper's, where the authors' JAX code takes its tanh approximation.

    Raises `BadOption` for sizes at odds with each other, `BadShape` for an image of any other size: the
    position table is never cut.

    >>> import torch
    >>> model = ViT(image_size=(32, 48), patch_size=8, classes=10, width=64, depth=2, heads=4, mlp_width=128)
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
        head: Head = "classes",
    ) -> None:
        super().__init__()
        self.tokens = Tokens.of("ViT", tokens, image_size, channels, patch_size, group_size)
        check_sizes("ViT", head, width=width, depth=depth, heads=heads, mlp_width=mlp_width, classes=classes)
        if width % heads:
            raise BadOption(f"ViT: width={width} is not divisible by heads={heads}")
        self.head_kind = head
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.tokens.count, width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.patch_embed = Embedding(self.tokens, width)
        self.blocks = nn.Sequential(
            *(
                Block(
                    SelfAttention(
                        width, heads, width // heads, self.tokens.grid, bias=True, class_token=True
                    ),
                    width,
                    mlp_width,
                    _EPS,
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = head_of(width, head, classes)

    def forward(self, images: Tensor) -> Tensor:
        self.tokens.check(images)
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.blocks(x)
        return answer(self.head(self.norm(x[:, 0])), self.head_kind)
