"""The position attention module of DANet, Fu et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_reduction, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.eager import is_eager
from saccade.ops.softmax_attention import softmax_attention


def pam(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return at each position i the mean of the values, weighted by softmax_j(q_i^T k_j).

    Args:
        query: Queries q, (B, D, H, W).
        key: Keys k, (B, D, H, W).
        value: Values, (B, E, H, W).

    Returns:
        Weighted means of the values, (B, E, H, W).
    """
    q, k, v = (z.flatten(2) for z in (query, key, value))
    if _keeps_weights(v):
        return (v @ (q.mT @ k).softmax(-1).mT).reshape(value.shape)
    q, k, v = (z.mT.contiguous() for z in (q, k, v))
    return softmax_attention(q, k, v, scale=1.0).mT.reshape(value.shape)


def _keeps_weights(values: Tensor) -> bool:
    """Return whether to hold all weights, if they are no more than the values, (B, E, N).

    On CPUs this is faster than to compute them again. In half precision the products could overflow.
    """
    if not is_eager() or values.device.type != "cpu":
        return False
    return values.dtype in (torch.float32, torch.float64) and values.shape[2] <= values.shape[1]


class PAM(nn.Module):
    """Position attention module: adds to each position a mixture of all positions, weighted by similarity.

        q = W_q x + b_q        k = W_k x + b_k        v = W_v x + b_v
        a_ij = softmax_j(q_i^T k_j)        y_i = x_i + gamma sum_j a_ij v_j

    i and j are positions. W_q (`query`), W_k (`key`) and W_v (`value`) are 1 x 1 convolutions with biases,
    and gamma is `gamma`. The products are not scaled. gamma is initialized with 0, so that initially y = x
    exactly. DANet applies the module beside `cam` and adds both results.

    References:
        Fu, Liu, Tian, Li, Bao, Fang, Lu: Dual Attention Network for Scene Segmentation, CVPR 2019 (equations
        1 and 2).

    Args:
        channels: Number of channels C.
        reduction: q and k have C // reduction channels; from 1 to C.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If the reduction leaves no channel, or is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code. Time is quadratic in the number of positions N, memory linear:
        the N x N weights are held only on CPUs, and only where N <= C, so that they are no larger than x.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(PAM(32)(x), x)
        True
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        check_reduction("pam", channels, reduction=reduction)
        self.channels = channels
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("pam", x, "B C H W", C=self.channels)
        q, k = self.query(x), self.key(x)
        if self.tap.recording:
            queries, keys = (z.detach().flatten(2).mT.unsqueeze(1) for z in (q, k))
            shape = tuple(x.shape[2:])
            self.tap.publish(PairwiseMap(queries, keys, 1.0, shape, shape))
        return x + self.gamma * pam(q, k, self.value(x))


SPEC = Spec(
    name="pam",
    domain="pairwise",
    paper=Paper(
        "Dual Attention Network for Scene Segmentation",
        "Fu, Liu, Tian, Li, Bao, Fang, Lu",
        2019,
        "https://arxiv.org/abs/1809.02983",
    ),
    summary="add to each position a mixture of all positions, with a factor initialized with 0",
    module=PAM,
    function=pam,
    examples=(Example("B C H W"), Example("B C H W", {"reduction": 3})),
    maps=(PairwiseMap,),
    flow="x -> [[[query | key] -> products, softmax | value] -> sum -> gamma | ] -> add -> y",
)
