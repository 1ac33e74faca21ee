"""Selective kernels, Li et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce as fold

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.dims import AXES, CONV, NORM, Dims, check_dims
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, Tap
from saccade.ops.gates import mean


def sk(features: Sequence[Tensor], reduce: nn.Module, select: nn.Module) -> Tensor:
    """Return the softmax weights of branches, one per branch and channel: softmax_m(select(reduce(s)))_m.

    s is the mean over positions of the sum of all branches, and m runs over branches.

    Args:
        features: M branches, (B, C, ...) each.
        reduce: Module from s, (B, C), to the descriptor z, (B, d).
        select: Module from z to the logits of all branches, (B, M * C).

    Returns:
        Weights, (B, M, C).
    """
    fused = fold(Tensor.add, features)
    return torch.softmax(select(reduce(mean(fused.flatten(2)))).unflatten(1, (len(features), -1)), 1)


class SK(nn.Module):
    """Selective kernel convolution: branches with growing receptive fields, mixed per channel.

        u_m = ReLU(BN(F_m * x))                     s = mean_p sum_m u_mp
        z = ReLU(BN(W s))                           a_m = softmax_m(A_m z)        y = sum_m a_m u_m

    F_m are the convolutions of `convs` (3 x 3, grouped, branch m dilated by m in place of 5 x 5 and 7 x 7
    kernels), p is a position, s the channel means of the summed branches, W is `reduce` with d = max(C // r,
    L) outputs, A_m the rows of `select` that belong to branch m, and y the output. Only the batch norms have
    biases, as in the authors' code. The layer replaces a convolution: it has no residual connection, so it is
    not close to the identity at initialization. With `split_input`, branch m sees only part m of the channels
    of x, as in timm.

    References:
        Li, Wang, Hu, Yang: Selective Kernel Networks, CVPR 2019 (equations 1 to 6).

    Args:
        channels: Number of channels C, a multiple of `groups`, and with `split_input` of `paths * groups`.
        paths: Number of branches M, at least 1.
        groups: Number of groups G of the convolutions, at least 1.
        reduction: Reduction ratio r of the descriptor, at least 1.
        min_dim: Smallest width L of the descriptor, at least 1.
        dims: Number of spatial axes of the input: 1, 2 or 3.
        split_input: Whether each branch has C / M input channels of its own instead of all.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If C is not a multiple as above, or an option is below 1.
        BadShape: For any other input shape; in training also for a batch of one, since the batch norm after
            the global mean then has a single value per channel.

    Note:
        The paper has images, `dims=2`; in a volume, the convolutions are 3 x 3 x 3.

    Example:
        >>> import torch
        >>> SK(32, groups=8)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        paths: int = 2,
        groups: int = 32,
        reduction: int = 16,
        min_dim: int = 32,
        dims: Dims = 2,
        split_input: bool = False,
    ) -> None:
        super().__init__()
        check_positive("sk", paths=paths, groups=groups, reduction=reduction, min_dim=min_dim)
        check_dims("sk", dims)
        parts = paths if split_input else 1
        if channels % (parts * groups):
            factors = f"paths * groups = {parts * groups}" if split_input else f"groups={groups}"
            raise bad_option("sk", f"must be a multiple of {factors}", channels=channels)
        self.channels, self.dims, self.parts = channels, dims, parts
        self.convs = nn.ModuleList(
            nn.Sequential(
                CONV[dims](channels // parts, channels, 3, 1, dilation, dilation, groups=groups, bias=False),
                NORM[dims](channels),
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
        check_shape("sk", x, AXES[self.dims], C=self.channels)
        if self.training and x.shape[0] == 1:
            raise bad_shape("sk", "batch norm of the channel means needs at least 2 images in training", x)
        inputs = [x] * len(self.convs) if self.parts == 1 else x.chunk(self.parts, 1)
        features: list[Tensor] = [conv(part) for conv, part in zip(self.convs, inputs, strict=True)]
        weights = sk(features, self.reduce, self.select)
        if self.tap.recording:
            self.tap.publish(BranchMap.of(weights, features))
        of_paths = weights.reshape(*weights.shape, *[1] * self.dims).unbind(1)
        weighted = [w * u for w, u in zip(of_paths, features, strict=True)]
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
        Example("B C H W", {"paths": 4, "groups": 4, "reduction": 2, "min_dim": 8, "split_input": True}),
        Example("B C W", {"dims": 1}),
        Example("B C T H W", {"dims": 3}),
    ),
    maps=(BranchMap,),
    flow="x -> [conv 3x3 | dilated conv] -> [sum -> mean -> W, A -> softmax | ] -> weighted sum -> y",
)
