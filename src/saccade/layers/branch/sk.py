"""Selective kernels, Li et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce as fold
from operator import add

from torch import Tensor, nn

from saccade.errors import BadOption, BadShape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, Tap


def sk(features: Sequence[Tensor], reduce: nn.Module, select: nn.Module) -> Tensor:
    """Return the weight of every path for every channel, a softmax over paths of select(reduce(s)).

    features P maps (B, C, H, W), s the mean of their sum over positions, (B, C) -> (B, P, C).
    """
    means = fold(add, features).mean((2, 3))
    weights: Tensor = select(reduce(means)).unflatten(1, (len(features), -1)).softmax(1)
    return weights


class SK(nn.Module):
    """Selective kernel convolution: paths of growing reach, mixed channel by channel by their own sum.

        u_m = ReLU(BN(F_m * x))                     s = mean_p sum_m u_mp
        z = ReLU(BN(W s))                           a_m = softmax_m(A_m z)        y = sum_m a_m u_m

    Li, Wang, Hu, Yang: Selective Kernel Networks, CVPR 2019 (equations 1 to 6).
    F_m the convolutions of `convs`, 3 x 3 in G `groups`, path m dilated by m (in place of 5 x 5, 7 x 7);
    W `reduce`, C -> d = max(C // r, L); A_m the rows of `select`, all paths' of them; r `reduction`,
    L `min_dim`, M `paths`. No layer but the batch norms has a bias, as in the authors' code.

    x (B, C, H, W) -> the same shape.

    Deviation: none. (It stands in for a convolution: with no residual of its own, it is not near the
    identity at the start.)

    Raises `BadOption` if the groups do not divide C, `BadShape` for any other input, and in training for a
    batch of one: the batch norm behind the global mean has one value per channel then.

    >>> import torch
    >>> SK(32, groups=8)(torch.randn(2, 32, 7, 5)).shape
    torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self, channels: int, paths: int = 2, groups: int = 32, reduction: int = 16, min_dim: int = 32
    ) -> None:
        super().__init__()
        check_positive("sk", paths=paths, groups=groups, reduction=reduction, min_dim=min_dim)
        if channels % groups:
            raise BadOption(f"sk: channels={channels} must be a multiple of groups={groups}")
        self.channels = channels
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=reach, dilation=reach, groups=groups, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for reach in range(1, paths + 1)
        )
        hidden = max(channels // reduction, min_dim)
        self.reduce = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()
        )
        self.select = nn.Linear(hidden, paths * channels, bias=False)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("sk", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] == 1:
            raise BadShape(
                f"sk: the batch norm behind the global mean cannot train on a batch of 1, {tuple(x.shape)}"
            )
        features = [conv(x) for conv in self.convs]
        weights = sk(features, self.reduce, self.select)
        if self.tap.recording:
            self.tap.publish(BranchMap.of(weights, features))
        parts = [w[:, :, None, None] * u for w, u in zip(weights.unbind(1), features, strict=True)]
        y: Tensor = fold(add, parts)
        return y


SPEC = Spec(
    name="sk",
    domain="branch",
    paper=Paper("Selective Kernel Networks", "Li, Wang, Hu, Yang", 2019, "https://arxiv.org/abs/1903.06586"),
    summary="mix convolutions of several reaches, channel by channel",
    module=SK,
    function=sk,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"paths": 3, "groups": 4, "reduction": 2, "min_dim": 8}),
    ),
    maps=(BranchMap,),
    flow="x -> [conv 3x3 | dilated conv] -> [sum -> mean -> W, A -> softmax | ] -> weighted sum -> y",
)
