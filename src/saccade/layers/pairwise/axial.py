"""Axial attention with learned positions, Wang et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.axial_logits import axial_logits, logit_normalization
from saccade.ops.chunks import is_small
from saccade.ops.eager import is_eager
from saccade.ops.precision import no_autocast

_WEIGHTS = 1 << 21  # weights held at a time


def axial(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return the sums over j of w_ij v_j and of w_ij r^v_ij, for the weights w = softmax of `axial_logits`.

    Args:
        query: Queries, (B, heads, D / 2, L), of L positions in each of B lines.
        key: Keys, (B, heads, D / 2, L).
        value: Values v, (B, heads, D, L).
        positions: Vectors of the pairs of positions, (2 D, L, L): of queries, keys and values r^v.
        scale: Factors of the three terms of the logits, (3, heads).
        shift: Summand of the logits, (heads,).

    Returns:
        Both sums side by side, (B, heads, D, 2, L).
    """
    half = query.shape[2]
    of_query, of_key, of_value = positions.split([half, half, 2 * half])
    with no_autocast(value):
        logits = axial_logits(query, key, of_query, of_key, scale, shift)
        weights, of_value = logits.softmax(3).to(value.dtype), of_value.to(value.dtype)
        by_query = weights.permute(2, 0, 1, 3).flatten(1, 2) @ of_value.permute(1, 2, 0)  # (L, B * heads, D)
        by_position = by_query.unflatten(1, weights.shape[:2]).permute(1, 2, 3, 0)
        return torch.stack([value @ weights.mT, by_position], 3)


class AxialLine(nn.Module):
    """Attention of each position to its row, or with `vertical` to its column, of a fixed length."""

    relative_index: Tensor

    def __init__(self, channels: int, length: int, heads: int, *, vertical: bool) -> None:
        super().__init__()
        width = channels // heads
        self.heads, self.width, self.vertical = heads, width, vertical
        self.relative = nn.Parameter(torch.randn(2 * width, 2 * length - 1) * width**-0.5)
        place = torch.arange(length)
        self.register_buffer("relative_index", (place[:, None] - place + length - 1).flatten())
        self.qkv = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.norm_qkv = nn.BatchNorm1d(2 * channels)
        self.norm_logits = nn.BatchNorm2d(3 * heads)
        self.norm_output = nn.BatchNorm1d(2 * channels)
        self.tap = Tap()
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.mT if self.vertical else x
        rows, length, half = grid.shape[2], grid.shape[3], self.width // 2
        parts = self.norm_qkv(self.qkv(grid.transpose(1, 2).flatten(0, 1)))
        q, k, v = parts.unflatten(1, (self.heads, 2 * self.width)).split([half, half, self.width], 2)
        positions = self.relative[:, self.relative_index].unflatten(1, (length, length))
        q_position, k_position, _ = positions.split([half, half, self.width])
        factors = q, k, q_position, k_position
        with no_autocast(x):
            scale, shift = logit_normalization(*factors, self.norm_logits)
            if self.tap.recording:
                received = axial_logits(*factors, scale, shift).detach().softmax(3).mean((1, 2))
                received = received.unflatten(0, (-1, rows))
                self.tap.publish(SpatialMap(received.mT if self.vertical else received))
        sums = _by_chunks(q, k, v, positions, scale, shift).flatten(1, 3)
        y: Tensor = self.norm_output(sums).unflatten(1, (-1, 2)).sum(2)
        y = y.unflatten(0, (-1, rows)).transpose(1, 2)
        return y.mT if self.vertical else y


def _by_chunks(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return `axial` of all lines, some lines at a time; the backward pass computes their weights again."""
    of_line = query.shape[1] * query.shape[3] ** 2
    few = is_small(query.shape[0] * of_line, query)
    if few or not (is_eager() and torch.is_grad_enabled()):
        return axial(query, key, value, positions, scale, shift)
    lines = max(1, _WEIGHTS // of_line)
    parts = [
        checkpoint(axial, *chunk, positions, scale, shift, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(*(x.split(lines) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts)


class Axial(nn.Module):
    """Axial attention: attention of each position to its column, and of the result to its row.

        l_ij = BN(q_i . k_j) + BN(q_i . r^q_(i - j)) + BN(k_j . r^k_(j - i))
        y_i = BN(sum_j a_ij v_j) + BN(sum_j a_ij r^v_(i - j))        a_ij = softmax_j(l_ij)

    i and j are positions of one column, or row. [q; k; v] = BN(W x), where W is `qkv`, without bias. r are
    learned vectors of the relative position, `relative`, which all heads share. A head has C / h values, and
    queries and keys of half this width. The products are not scaled; each batch norm has parameters of its
    own. `column` and `row` hold the parameters of both steps.

    Recording gives two maps, of the columns and of the rows: the weight that each position receives, the mean
    over the queries of its line and over heads.

    References:
        Wang, Zhu, Green, Adam, Yuille, Chen: Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic
        Segmentation, ECCV 2020 (equations 4 and 5).

    Args:
        channels: Number of channels C, a multiple of 2 * `heads`.
        size: Height and width (H, W) of the map, or one number for both. The authors' network of 224 x 224
            pixels has maps of 56 x 56 first.
        heads: Number of heads h, at least 1.

    Shape:
        - Input: (B, C, H, W), exactly of this size.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of 2 * `heads`, or an option is out of range.
        BadShape: For any other input shape; in training also for a single position in the batch, which has no
            batch statistics.

    Note:
        Deviation: none from the authors' code of this layer, whose block adds 1 x 1 convolutions around both
        steps. Batch statistics of the logits are computed from second moments of q, k and r, so that the
        three terms are not held one by one. The H W (H + W) weights of a head are computed for some lines at
        a time, and again in the backward pass.

    Example:
        >>> import torch
        >>> Axial(32, size=(7, 5))(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, size: int | Sequence[int] = 56, heads: int = 8) -> None:
        super().__init__()
        pair = tuple(size) if isinstance(size, Sequence) else (size, size)
        if len(pair) != 2:
            raise bad_option("axial", "must be a number or a pair (height, width)", size=size)
        for extent in pair:
            check_positive("axial", size=extent)
        check_positive("axial", heads=heads)
        if channels % (2 * heads):
            raise bad_option("axial", f"must be a multiple of 2 * heads = {2 * heads}", channels=channels)
        self.channels, self.size = channels, pair
        self.column = AxialLine(channels, pair[0], heads, vertical=True)
        self.row = AxialLine(channels, pair[1], heads, vertical=False)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("axial", x, "B C H W", C=self.channels, H=self.size[0], W=self.size[1])
        if self.training and x[:, 0].numel() == 1:
            raise bad_shape("axial", "batch norm needs more than one position in training", x)
        y: Tensor = self.row(self.column(x))
        return y


SPEC = Spec(
    name="axial",
    domain="pairwise",
    paper=Paper(
        "Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation",
        "Wang, Zhu, Green, Adam, Yuille, Chen",
        2020,
        "https://arxiv.org/abs/2003.07853",
    ),
    summary="attention to the column and then to the row, with learned relative positions",
    module=Axial,
    function=axial,
    examples=(
        Example("B C 8 6", {"size": (8, 6)}),
        Example("B C 5 5", {"size": 5, "heads": 4}),
    ),
    maps=(SpatialMap, SpatialMap),
    flow="x -> W, BN -> [[q | k] -> products, r, BN, softmax | v] -> sums, BN -> rows -> y",
)
