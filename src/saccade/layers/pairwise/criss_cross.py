"""Criss-cross attention, Huang et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_positive, check_reduction, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import CrissCrossMap, Tap
from saccade.ops.criss_cross_attention import criss_cross_attention


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return at each position the mean of the values in its row and column, weighted by softmax(q^T k).

    Args:
        query: Queries q, (B, D, H, W).
        key: Keys k, (B, D, H, W).
        value: Values, (B, E, H, W).

    Returns:
        Weighted means of the values, (B, E, H, W).
    """
    return criss_cross_attention(query, key, value)


class CrissCross(nn.Module):
    """Criss-cross attention: adds to each position a mixture of the positions in its row and its column.

        y_p = x_p + gamma sum_j a_pj v_j        a_pj = softmax_j(q_p . k_j)

    q, k and v are 1 x 1 convolutions of x with biases (`query`, `key` and `value`), and j runs over the H + W
    - 1 positions in the row and the column of p, p itself once. Products are not scaled. gamma is initialized
    with 0, so that initially y = x exactly. The paper applies the module twice with the same weights: then
    every position reaches every other one.

    Recording gives the weights of the last application.

    References:
        Huang, Wang, Huang, Huang, Wei, Liu: CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019
        (equations 1 and 2).

    Args:
        channels: Number of channels C.
        reduction: q and k have C // reduction channels; from 1 to C.
        recurrence: Number of times the module is applied, with shared weights, at least 1. The paper uses 2.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If a reduction leaves no channel, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: equation 2 of the paper has no gamma; this module has that of the authors' code. The cost
        is O(H W (H + W) C) in time. The H W (H + W) weights are not kept for the backward pass, and there is
        no tensor of (H W)^2 values; see `saccade.ops.criss_cross_attention`.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(CrissCross(32, recurrence=2)(x), x)
        True
    """

    def __init__(self, channels: int, reduction: int = 8, recurrence: int = 1) -> None:
        super().__init__()
        check_positive("criss_cross", recurrence=recurrence)
        check_reduction("criss_cross", channels, reduction=reduction)
        self.channels, self.recurrence = channels, recurrence
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("criss_cross", x, "B C H W", C=self.channels)
        for _ in range(self.recurrence):
            z = x.contiguous(memory_format=torch.channels_last)  # the layout of the lines of q, k and v
            q, k, v = self.query(z), self.key(z), self.value(z)
            if self.tap.recording:
                queries, keys = (z.detach().flatten(2).mT.unsqueeze(1) for z in (q, k))
                grid = (x.shape[2], x.shape[3])
                self.tap.publish(CrissCrossMap(queries, keys, 1.0, grid, grid, grid))
            y = criss_cross(q, k, v)
            x = x + self.gamma * (y.contiguous() if x.is_contiguous() else y)
        return x


SPEC = Spec(
    name="criss_cross",
    domain="pairwise",
    paper=Paper(
        "CCNet: Criss-Cross Attention for Semantic Segmentation",
        "Huang, Wang, Huang, Huang, Wei, Liu",
        2019,
        "https://arxiv.org/abs/1811.11721",
    ),
    summary="add to each position a mixture of its row and column, with a factor initialized with 0",
    module=CrissCross,
    function=criss_cross,
    examples=(Example("B C H W"), Example("B C H W", {"reduction": 4, "recurrence": 2})),
    maps=(CrissCrossMap,),
    flow="x -> [[[query | key] -> softmax in row and column | value] -> sum -> gamma | ] -> add -> y",
)
