"""The plain vision transformer, Beyer et al. 2022."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.layers.pairwise.multi_head import sincos2d
from saccade.models.tokens import Kind, Pair, Tokens
from saccade.models.transformer import Block, Head, SelfAttention, answer, check_sizes, head_of, linear


def sincos1d(length: int, width: int, like: Tensor) -> Tensor:
    """Return the fixed encoding of a row of tokens (length, width): sine and cosine at width/2 frequencies.

    The frequencies are 10000^(-i / (width/2 - 1)), i = 0 ... width/2 - 1.
    """
    half = width // 2
    steps = torch.arange(half, device=like.device, dtype=torch.float32) / max(half - 1, 1)
    places = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    angles = places * (1 / 10000.0**steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class SimpleViT(nn.Module):
    """Vision transformer without a class token: fixed positions, the mean over tokens, one linear layer.

        z_0 = LN(W_e LN(x) + b_e) + sincos        z'_l = MSA(LN(z_{l-1})) + z_{l-1}
        z_l = MLP(LN(z'_l)) + z'_l                y = W mean_i LN(z_L)_i + b

    Beyer, Zhai, Kolesnikov: Better plain ViT baselines for ImageNet-1k, arXiv 2022. x a flattened patch, W_e
    `embed`, sincos the fixed code of its row and column, LN `norm`, W and b `head`. The defaults are the
    paper's S/16.

    images (B, channels, H, W) of the one size `image_size` -> logits (B, classes), or scores (B,).

    image_size    height and width, or one number for both; 224, or 7 with tokens "channels"
    patch_size    height and width of a patch, or one number for both; it divides the image
    classes       number of logits of the head "classes"
    width         of a token; divisible by 4 for patches (two axes to encode), by 2 for channels
    channels      of the input; 3, or 512 with tokens "channels"
    head_width    width of queries and keys, whatever `width` is
    tokens        "patches" of an image; or "channels": a feature map is cut into groups of `group_size`
                  neighboring channels, each a token of group_size * H * W values, with a fixed code of its
                  number
    head          "classes"; or "score", one number per image

    Every layer records a `PairwiseMap` of the grid of patches, or the row of channel groups, as
    "blocks.NUMBER.attn".

    Deviations: the layers are those of the vit-pytorch package, weight for weight and in its order: the
    layer norms around `embed` are its own, and queries, keys, values and their output have no bias, as they
    do in the authors' big_vision. The weights start as in the authors' code, but for the head, which does not
    start at 0. GELU is exact.

    Raises `BadOption` for sizes at odds with each other, `BadShape` for an image of any other size.

    >>> import torch
    >>> model = SimpleViT((32, 48), patch_size=8, classes=10, width=64, depth=2, heads=4, mlp_width=128)
    >>> model(torch.randn(2, 3, 32, 48)).shape
    torch.Size([2, 10])
    >>> score = SimpleViT(tokens="channels", head="score", width=64, depth=2, heads=4, mlp_width=128)
    >>> score(torch.randn(5, 512, 7, 7)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        image_size: int | Pair | None = None,
        patch_size: int | Pair = 16,
        classes: int = 1000,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_width: int = 1536,
        channels: int | None = None,
        head_width: int = 64,
        tokens: Kind = "patches",
        group_size: int = 32,
        head: Head = "classes",
    ) -> None:
        super().__init__()
        self.tokens = Tokens.of("SimpleViT", tokens, image_size, channels, patch_size, group_size)
        check_sizes(
            "SimpleViT",
            head,
            width=width,
            depth=depth,
            heads=heads,
            head_width=head_width,
            mlp_width=mlp_width,
            classes=classes,
        )
        parts = 2 * len(self.tokens.grid)
        if width % parts:
            raise BadOption(
                f"SimpleViT: width={width} is not divisible by {parts}, as the position code needs"
            )
        self.width, self.head_kind = width, head
        layers = {
            "norm_in": nn.LayerNorm(self.tokens.width),
            "linear": linear(self.tokens.width, width),
            "norm_out": nn.LayerNorm(width),
        }
        self.embed = nn.Sequential(OrderedDict(layers))
        self.norm = nn.LayerNorm(width)  # before the blocks, so that weights come in vit-pytorch's order
        self.blocks = nn.Sequential(
            *(
                Block(
                    SelfAttention(width, heads, head_width, self.tokens.grid, bias=False),
                    width,
                    mlp_width,
                    eps=1e-5,
                )
                for _ in range(depth)
            )
        )
        self.head = head_of(width, head, classes)

    def forward(self, images: Tensor) -> Tensor:
        self.tokens.check(images)
        x = self.embed(self.tokens.split(images))
        x = self.blocks(x + self._positions(x))
        return answer(self.head(self.norm(x).mean(1)), self.head_kind)

    def _positions(self, x: Tensor) -> Tensor:
        """Return the fixed codes (count, width). They are made anew each time: no state, any device."""
        if self.tokens.kind == "channels":
            return sincos1d(self.tokens.count, self.width, like=x)
        rows, columns = self.tokens.grid
        return sincos2d(rows, columns, self.width, like=x)
