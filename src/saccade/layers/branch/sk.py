"""Selective kernels, Li et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce as fold

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, Tap


def sk(features: Sequence[Tensor], reduce: nn.Module, select: nn.Module) -> Tensor:
    """Return the softmax weights of branches, one per branch and channel: softmax_m(select(reduce(s)))_m.

    s is the mean over positions of the sum of all branches, and m runs over branches.

    Args:
        features: M branches, (B, C, H, W) each.
        reduce: Module from s, (B, C), to the descriptor z, (B, d).
        select: Module from z to the logits of all branches, (B, M * C).

    Returns:
        Weights, (B, M, C).
    """
    means = fold(Tensor.add, features).mean((2, 3))
    return torch.softmax(select(reduce(means)).unflatten(1, (len(features), -1)), 1)


class SK(nn.Module):
    """Selective kernel convolution: branches with growing receptive fields, mixed per channel.

        u_m = ReLU(BN(F_m * x))                     s = mean_p sum_m u_mp
        z = ReLU(BN(W s))                           a_m = softmax_m(A_m z)        y = sum_m a_m u_m

    F_m are the convolutions of `convs` (3 x 3, grouped, branch m dilated by m in place of 5 x 5 and 7 x 7
    kernels), p is a position, s the channel means of the summed branches, W is `reduce` with d = max(C // r,
    L) outputs, A_m the rows of `select` that belong to branch m, and y the output. Only the batch norms have
    biases, as in the authors' code. The layer replaces a convolution: it has no residual connection, so it is
    not close to the identity at initialization.

    References:
        Li, Wang, Hu, Yang: Selective Kernel Networks, CVPR 2019 (equations 1 to 6).

    Args:
        channels: Number of channels C, a multiple of `groups`.
        paths: Number of branches M, at least 1.
        groups: Number of groups G of the convolutions, at least 1.
        reduction: Reduction ratio r of the descriptor, at least 1.
        min_dim: Smallest width L of the descriptor, at least 1.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of `groups`, or an option is below 1.
        BadShape: For any other input shape; in training also for a batch of one, since the batch norm after
            the global mean then has a single value per channel.

    Example:
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
            raise bad_option("sk", f"must be a multiple of groups={groups}", channels=channels)
        self.channels = channels
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, 1, dilation, dilation, groups=groups, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for dilation in range(1, paths + 1)
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
            raise bad_shape("sk", "batch norm of the channel means needs at least 2 images in training", x)
        features: list[Tensor] = [conv(x) for conv in self.convs]
        weights = sk(features, self.reduce, self.select)
        if self.tap.recording:
            self.tap.publish(BranchMap.of(weights, features))
        weighted = [w[:, :, None, None] * u for w, u in zip(weights.unbind(1), features, strict=True)]
        return fold(Tensor.add, weighted)


SPEC = Spec(
    name="sk",
    domain="branch",
    paper=Paper("Selective Kernel Networks", "Li, Wang, Hu, Yang", 2019, "https://arxiv.org/abs/1903.06586"),
    summary="mix convolutions with different receptive fields, channel by channel",
    module=SK,
    function=sk,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"paths": 3, "groups": 4, "reduction": 2, "min_dim": 8}),
    ),
    maps=(BranchMap,),
    flow="x -> [conv 3x3 | dilated conv] -> [sum -> mean -> W, A -> softmax | ] -> weighted sum -> y",
)
