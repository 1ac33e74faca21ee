"""Lambda layers, Bello 2021."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import (
    bad_option,
    bad_shape,
    check_multiple,
    check_pair,
    check_positive,
    check_positive_number,
    check_shape,
)
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import make_divisible
from saccade.maps import OffsetMap, Tap


def lambda_layer(query: Tensor, key: Tensor, value: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return q_p^T (content + position_p), with the lambdas, matrices of D x V, of content and of position.

        content = sum_n k_n v_n^T        position_p = sum_t e_t v_p+t^T + b        t in a window around 0

    Neither sum needs the weights of pairs: the second one is a convolution of each channel of v.

    Args:
        query: Queries q, (B, heads, D, H, W).
        key: Keys k, (B, D, H, W), normalized over positions.
        value: Values v, (B, V, H, W).
        kernel: Embeddings e of the offsets t, (D, h, w), for odd h and w.
        bias: Bias b, (D,), added to each column of the lambda of position.

    Returns:
        Results, (B, heads, V, H, W).
    """
    content = key.flatten(2) @ value.flatten(2).mT  # (B, D, V)
    padding = (kernel.shape[1] // 2, kernel.shape[2] // 2)
    columns = F.conv2d(value.flatten(0, 1).unsqueeze(1), kernel.unsqueeze(1), bias, padding=padding)
    position = torch.einsum("bhkyx,bvkyx->bhvyx", query, columns.unflatten(0, (-1, value.shape[1])))
    return position + torch.einsum("bhkyx,bkv->bhvyx", query, content)


class LambdaLayer(nn.Module):
    """Lambda layer: a linear function of the query, from the content of all positions and from their offsets.

        y_p = (sum_n softmax_n(k_n) v_n^T + sum_t e_t v_p+t^T + b)^T q_p        for each head

    q, k and v are the parts of `qkv`, a 1 x 1 convolution of x, q and v with batch norms (`norm_q`,
    `norm_v`). Heads differ in q; they share k, of width D, and v, of C / heads channels. The softmax runs
    over all positions n. The offsets t form a window of r x r with the embeddings e (`conv_lambda`, with the
    bias b), or with r=None, without b, all offsets between two positions of a map of `feat_size` (`pos_emb`).

    The recorded map holds the weights of v, q_p . (softmax(k)_n + e_n-p), of either sign; b belongs to no
    position and is left out.

    References:
        Bello: LambdaNetworks: Modeling Long-Range Interactions Without Attention, ICLR 2021 (section 3).

    Args:
        channels: Number of channels C, a multiple of `num_heads`.
        feat_size: Height and width of the map, or one number for both. Needed and used for r=None alone.
        num_heads: Number of heads, at least 1.
        dim_head: Width D of queries and keys; with None, `qk_ratio` C, rounded to a multiple of 8, divided by
            the number of heads.
        r: Size of the window of offsets, odd; None for all offsets.
        qk_ratio: Ratio of the width of queries to C for dim_head=None, above 0.
        qkv_bias: Whether `qkv` has a bias.

    Shape:
        - Input: (B, C, H, W), of `feat_size` for r=None.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of the number of heads, no width is left for queries, r is even, or
            an option is out of range.
        BadShape: For any other input shape; in training also for a single position in the batch, which has no
            batch statistics.

    Note:
        The result, the names of parameters and the options are those of timm's `LambdaLayer`, whose
        `state_dict` loads, without its options for another output size, `dim_out` and `stride`. The paper's
        intra-depth is 1. For r=None, the sum over all positions is a convolution, too.

    Example:
        >>> import torch
        >>> LambdaLayer(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        feat_size: int | Sequence[int] | None = None,
        num_heads: int = 4,
        dim_head: int | None = 16,
        r: int | None = 9,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        check_positive_number("lambda_layer", qk_ratio=qk_ratio)
        check_multiple("lambda_layer", channels, num_heads=num_heads)
        width = make_divisible(channels * qk_ratio) // num_heads if dim_head is None else dim_head
        check_positive("lambda_layer", dim_head=width)
        self.channels, self.heads, self.width = channels, num_heads, width
        self.value_width = channels // num_heads
        self.qkv = nn.Conv2d(channels, (num_heads + 1) * width + self.value_width, 1, bias=qkv_bias)
        self.norm_q = nn.BatchNorm2d(num_heads * width)
        self.norm_v = nn.BatchNorm2d(self.value_width)
        self.size: tuple[int, int] | None = None
        if r is None:
            self.size = check_pair("lambda_layer", feat_size=feat_size)
            self.pos_emb = nn.Parameter(torch.empty(*(2 * extent - 1 for extent in self.size), width))
            nn.init.trunc_normal_(self.pos_emb, std=0.02)
        else:
            check_positive("lambda_layer", r=r)
            if r % 2 == 0:
                raise bad_option("lambda_layer", "must be odd to keep the map size", r=r)
            self.conv_lambda = nn.Conv3d(1, width, (r, r, 1))
            nn.init.trunc_normal_(self.conv_lambda.weight, std=width**-0.5)
        self.tap = Tap()
        nn.init.trunc_normal_(self.qkv.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        fixed = {} if self.size is None else {"H": self.size[0], "W": self.size[1]}
        check_shape("lambda_layer", x, "B C H W", C=self.channels, **fixed)
        if self.training and x.numel() == self.channels:
            raise bad_shape("lambda_layer", "batch norm needs more than one position in training", x)
        widths = [self.heads * self.width, self.width, self.value_width]
        q, k, v = self.qkv(x).split(widths, 1)
        query, value = self.norm_q(q).unflatten(1, (self.heads, -1)), self.norm_v(v)
        key = k.flatten(2).softmax(2).unflatten(2, x.shape[2:])
        kernel, bias = self._kernel()
        if self.tap.recording:
            self._publish(*(z.detach() for z in (query, key, kernel)))
        return lambda_layer(query, key, value, kernel, bias).flatten(1, 2)

    def _kernel(self) -> tuple[Tensor, Tensor | None]:
        """Return the embeddings of offsets, (D, h, w), and the bias."""
        if self.size is not None:
            return self.pos_emb.permute(2, 0, 1), None
        return self.conv_lambda.weight[:, 0, :, :, 0], self.conv_lambda.bias

    def _publish(self, query: Tensor, key: Tensor, kernel: Tensor) -> None:
        grid = (key.shape[2], key.shape[3])
        queries = query.flatten(3).mT
        keys = key.flatten(2).mT.unsqueeze(1).expand_as(queries)
        offsets = kernel.expand(*queries.shape[:2], -1, -1, -1)
        self.tap.publish(OffsetMap(queries, keys, 1.0, grid, grid, offsets))


SPEC = Spec(
    name="lambda_layer",
    domain="pairwise",
    paper=Paper(
        "LambdaNetworks: Modeling Long-Range Interactions Without Attention",
        "Bello",
        2021,
        "https://arxiv.org/abs/2102.08602",
    ),
    summary="apply to each query a linear function of the content and of the offsets of positions",
    module=LambdaLayer,
    function=lambda_layer,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"num_heads": 8, "dim_head": None, "r": 3, "qkv_bias": True}),
        Example("B C 5 4", {"r": None, "feat_size": (5, 4)}),
    ),
    maps=(OffsetMap,),
    flow="x -> qkv -> [q | [k -> softmax | v] -> content | v -> e -> position] -> lambdas of q -> y",
)
