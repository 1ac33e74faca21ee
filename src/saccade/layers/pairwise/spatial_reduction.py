"""Spatial-reduction attention of the pyramid vision transformer, Wang et al. 2021."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.narrow_attention import attention
from saccade.ops.windows import missing, needs_padding


def spatial_reduction(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v for each head.

    Args:
        query: Queries q of all N positions, (B, heads, N, D).
        key: Keys k of the M positions of the reduced map, (B, heads, M, D).
        value: Values v of the reduced map, (B, heads, M, D).

    Returns:
        Weighted means of the values, (B, heads, N, D).
    """
    return attention(query, key, value)


class SpatialReduction(nn.Module):
    """Spatial-reduction attention: multi-head attention to a map reduced by a strided convolution.

        z = LN(W_s * x + b_s)        q = W_q x        [k; v] = W_kv z
        a_ij = softmax_j(q_i . k_j / sqrt(C / h))     y_i = W_o sum_j a_ij v_j + b_o

    i is a position of x and j a position of the reduced map z. W_s is `sr`, a convolution of r x r with
    stride r, and LN the layer normalization `norm` over channels. W_q is `q`, W_kv is `kv`, W_o and b_o are
    `proj`, and h is the number of heads. With r = 1, z is x, without convolution and normalization. y is the
    output, without a residual connection.

    References:
        Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao: Pyramid Vision Transformer: A Versatile Backbone for
        Dense Prediction without Convolutions, ICCV 2021 (equations 1 to 4).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        heads: Number of heads h, at least 1.
        ratio: Reduction ratio r of height and width, at least 1.
        qkv_bias: Whether `q` and `kv` have biases.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        Maps that r does not divide are padded with zeros at the bottom and on the right, so that every
        position is seen; the authors' convolution leaves the last rows and columns out. As in the authors'
        network, the weights of linear layers are initialized from a truncated normal distribution with a
        standard deviation of 0.02. Dropout is left out.

    Example:
        >>> import torch
        >>> SpatialReduction(32, ratio=4)(torch.randn(2, 32, 9, 7)).shape
        torch.Size([2, 32, 9, 7])
    """

    def __init__(self, channels: int, heads: int = 8, ratio: int = 2, qkv_bias: bool = False) -> None:
        super().__init__()
        check_positive("spatial_reduction", ratio=ratio)
        check_multiple("spatial_reduction", channels, heads=heads)
        self.channels, self.heads, self.ratio = channels, heads, ratio
        self.q = nn.Linear(channels, channels, bias=qkv_bias)
        self.kv = nn.Linear(channels, 2 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.sr = nn.Conv2d(channels, channels, ratio, stride=ratio) if ratio > 1 else nn.Identity()
        self.norm = nn.LayerNorm(channels) if ratio > 1 else nn.Identity()
        self.tap = Tap()
        for layer in (self.q, self.kv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("spatial_reduction", x, "B C H W", C=self.channels)
        height, width = x.shape[2:]
        padded = x
        if needs_padding(height, width, self.ratio):
            padded = F.pad(x, (0, missing(width, self.ratio), 0, missing(height, self.ratio)))
        reduced = self.sr(padded)
        q = self._split(self.q(x.flatten(2).mT))
        k, v = map(self._split, self.kv(self.norm(reduced.flatten(2).mT)).chunk(2, dim=2))
        if self.tap.recording:
            scale, grid = (self.channels // self.heads) ** -0.5, tuple(reduced.shape[2:])
            self.tap.publish(PairwiseMap(q.detach(), k.detach(), scale, (height, width), grid))
        y: Tensor = self.proj(spatial_reduction(q, k, v).transpose(1, 2).flatten(2))
        return y.mT.reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        """Split (B, N, C) into heads, (B, heads, N, D)."""
        heads: Tensor = x.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)


SPEC = Spec(
    name="spatial_reduction",
    domain="pairwise",
    paper=Paper(
        "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
        "Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao",
        2021,
        "https://arxiv.org/abs/2102.12122",
    ),
    summary="multi-head attention to a map reduced by a strided convolution",
    module=SpatialReduction,
    function=spatial_reduction,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"heads": 4, "ratio": 3, "qkv_bias": True}),
        Example("B C H W", {"ratio": 1}),
    ),
    maps=(PairwiseMap,),
    flow="x -> [query | conv, LN -> [key | value]] -> products, softmax -> sum -> W_o -> y",
)
