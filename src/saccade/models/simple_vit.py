"""The plain vision transformer, Beyer et al. 2022."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from saccade.errors import bad_option
from saccade.layers.pairwise.multi_head import sincos2d
from saccade.models.transformer import (
    Block,
    Head,
    HeadKind,
    Kind,
    Pair,
    SelfAttention,
    Tokens,
    check_sizes,
    linear,
)


def sincos1d(length: int, width: int, like: Tensor) -> Tensor:
    """Return the fixed encoding of a sequence of tokens: sine and cosine at width/2 frequencies.

    The frequencies are 10000^(-i / (width/2 - 1)) for i = 0 ... width/2 - 1.

    Args:
        length: Number of tokens.
        width: Number of channels, even.
        like: Tensor that gives the device and the dtype.

    Returns:
        Encoding, (length, width).
    """
    half = width // 2
    steps = torch.arange(half, device=like.device, dtype=torch.float32) / max(half - 1, 1)
    index = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    angles = index * (1 / 10000.0**steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class SimpleViT(nn.Module):
    """Vision transformer without a class token: fixed position encoding, mean over tokens, one linear layer.

        z_0 = LN(W_e LN(x) + b_e) + sincos        z'_l = MSA(LN(z_{l-1})) + z_{l-1}
        z_l = MLP(LN(z'_l)) + z'_l                y = W mean_i LN(z_L)_i + b

    x is a flattened patch, W_e and b_e are in `embed`, sincos is the fixed encoding of row and column, z_l
    the tokens after layer l, MSA multi-head self-attention, LN `norm`, W and b are `head`, and y is the
    output. The defaults are those of S/16 in the paper. Each layer records a `PairwiseMap` on the grid of
    patches, or on the sequence of channel groups, as "blocks.NUMBER.attn"; layers and heads are numbered from
    0.

    References:
        Beyer, Zhai, Kolesnikov: Better plain ViT baselines for ImageNet-1k, arXiv 2022.

    Args:
        image_size: Height and width of the input, or one number for both; by default 224, or 7 for tokens
            "channels".
        patch_size: Height and width of a patch, or one number for both; a divisor of the image size.
        classes: Number of logits of head "classes".
        width: Width of a token; a multiple of 4 for patches (two axes are encoded), of 2 for channel groups.
        depth: Number of layers.
        heads: Number of attention heads.
        mlp_width: Width of the hidden layer of the MLP.
        channels: Number of input channels; by default 3, or 512 for tokens "channels".
        head_width: Width of the queries and keys of a head, independent of `width`.
        tokens: "patches" of an image; or "channels": groups of `group_size` neighboring channels of a feature
            map, each a token of group_size * H * W values, with a fixed encoding of its index.
        group_size: Number of channels of a group.
        head: "classes"; or "score", one number per image.

    Shape:
        - Input: (B, channels, H, W) of the size `image_size`.
        - Output: (B, classes) logits, or (B,) scores.

    Raises:
        BadOption: If an option is out of range, or sizes contradict each other.
        BadShape: For an image of any other size.

    Note:
        The layers correspond to the vit-pytorch package, weight for weight and in the same order. The layer
        norms around `embed` come from that package; queries, keys, values and their output have no bias
        there, unlike in the authors' big_vision. Weights are initialized as in the authors' code, except for
        the head, which is not initialized with 0. GELU is exact.

    Example:
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
        head: HeadKind = "classes",
    ) -> None:
        super().__init__()
        self.tokens = Tokens("SimpleViT", tokens, image_size, channels, patch_size, group_size)
        sizes = {"width": width, "depth": depth, "heads": heads, "head_width": head_width}
        check_sizes("SimpleViT", head, **sizes, mlp_width=mlp_width, classes=classes)
        parts = 2 * len(self.tokens.grid)
        if width % parts:
            raise bad_option("SimpleViT", f"must be a multiple of {parts} to encode positions", width=width)
        self.width = width
        layers = {
            "norm_in": nn.LayerNorm(self.tokens.width),
            "linear": linear(self.tokens.width, width),
            "norm_out": nn.LayerNorm(width),
        }
        self.embed = nn.Sequential(OrderedDict(layers))
        self.norm = nn.LayerNorm(width)  # before the blocks, for the weight order of vit-pytorch
        attentions = (
            SelfAttention(width, heads, head_width, self.tokens.grid, bias=False) for _ in range(depth)
        )
        self.blocks = nn.Sequential(
            *(Block(attention, width, mlp_width, eps=1e-5) for attention in attentions)
        )
        self.head = Head(width, head, classes)

    def forward(self, images: Tensor) -> Tensor:
        self.tokens.check(images)
        x = self.embed(self.tokens.split(images))
        # The encoding (count, width) is computed per call: no state, any device.
        encode: Callable[..., Tensor] = sincos1d if self.tokens.kind == "channels" else sincos2d
        x = self.blocks(x + encode(*self.tokens.grid, self.width, like=x))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits
