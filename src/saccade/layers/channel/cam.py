"""The channel attention module of DANet, Fu et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.eager import is_eager
from saccade.ops.gram import gram
from saccade.ops.precision import no_autocast


def cam(x: Tensor) -> Tensor:
    """Return the weights a_ij = softmax_j(max_j e_ij - e_ij) of channels, with e_ij = sum_p x_ip x_jp.

    The maximum cancels in the softmax, so it is not computed.

    Args:
        x: Features, (B, C, ...).

    Returns:
        Weights, (B, C, C), of channels j for each channel i.
    """
    return gram(x.flatten(2), -1).softmax(-1)


class CAM(nn.Module):
    """Channel attention module: adds to each channel a mixture of all channels, weighted by dissimilarity.

        e_ij = sum_p x_ip x_jp        a_ij = softmax_j(max_j e_ij - e_ij)
        y_ip = x_ip + gamma sum_j a_ij x_jp

    i and j are channels, p is a position, e are the products of channels, a the weights, and gamma is
    `gamma`, the only parameter. It is initialized with 0, so that initially y = x exactly. There are no
    convolutions: channels are compared as they are. DANet applies the module beside `pam` and adds both
    results.

    Recording gives one map, the weight that each channel receives: the mean of a_ij over i.

    References:
        Fu, Liu, Tian, Li, Bao, Fang, Lu: Dual Attention Network for Scene Segmentation, CVPR 2019 (equations
        3 and 4).

    Args:
        channels: Number of channels C.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadShape: For any other input shape.

    Note:
        As in the authors' code, the least similar channels have the largest weights; the paper has
        softmax_j(e_ij). Deviation: half precision and autocast are computed in float32, since the products e
        overflow in float16. For N positions, the cost is O(C^2 N) in time and O(C^2) in memory.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(CAM(32)(x), x)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gamma = nn.Parameter(torch.zeros(1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("cam", x, "B C ...", C=self.channels)
        dtype = torch.promote_types(x.dtype, torch.float32)
        with no_autocast(x):
            rows = x.flatten(2).to(dtype)
            weights = cam(rows)
            if self.tap.recording:
                self.tap.publish(ChannelMap.of(weights.mean(1), x.to(dtype)))
            y = _mixed(rows, weights, self.gamma.to(dtype))
        return y.to(x.dtype).reshape(x.shape)


def _mixed(x: Tensor, weights: Tensor, gamma: Tensor) -> Tensor:
    """Return x + gamma * weights x. gamma multiplies the smaller of the two tensors, weights or result."""
    if not is_eager() or x.shape[1] > x.shape[2]:
        return x + gamma * (weights @ x)
    return torch.baddbmm(x, gamma * weights, x)


SPEC = Spec(
    name="cam",
    domain="channel",
    paper=Paper(
        "Dual Attention Network for Scene Segmentation",
        "Fu, Liu, Tian, Li, Bao, Fang, Lu",
        2019,
        "https://arxiv.org/abs/1809.02983",
    ),
    summary="add to each channel a mixture of the least similar channels, with a factor initialized with 0",
    module=CAM,
    function=cam,
    examples=(Example("B C H W"), Example("B C W"), Example("B C T H W")),
    maps=(ChannelMap,),
    flow="x -> [[products of channels -> -, softmax | ] -> sum -> gamma | ] -> add -> y",
)
