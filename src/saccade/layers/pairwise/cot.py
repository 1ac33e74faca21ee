"""Contextual transformer block, Li et al. 2022."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, OffsetMap, Tap
from saccade.ops.gates import mean, scale
from saccade.ops.local_convolution import local_convolution

_SHARED = 8  # channels that share the weights of a position


def cot(value: Tensor, weights: Tensor) -> Tensor:
    """Return the dynamic context: at each position, the sum of its window with the weights of this position.

    Args:
        value: Values, (B, C, H, W).
        weights: Weights of the offsets in row-major order, (B, C / 8, k^2, H, W). Channel c takes the weights
            c mod C / 8.

    Returns:
        Weighted sums, (B, C, H, W).
    """
    return local_convolution(value, weights)


class CoT(nn.Module):
    """Contextual transformer block: mixes a static context with one whose weights depend on the position.

        k = ReLU(BN(K * x))        a = GN(W_2 ReLU(BN(W_1 [x; k])) + b)        v = BN(V x)
        d_cp = SiLU(BN(sum_t a_c,t,p v_c,p+t))
        s = softmax(S_2 ReLU(BN(S_1 mean_p(d + k) + c_1)) + c_2)        y = s_0 d + s_1 k

    k is the static context, a k x k convolution in 4 groups (`key`); d is the dynamic context. The weights a
    of the k^2 offsets t at a position p (`attend`) are shared by 8 channels, c, c + C/8, c + 2C/8, ..., and
    normalized by group norm, not by a softmax. `value` is V, `norm` the batch norm of d, and s (`select`)
    holds two weights for each channel, which sum to 1. y is the output.

    Recording gives two maps: the weights s with the two contexts, and, from the submodule `local`, the
    weights a of each position for its window, of either sign.

    References:
        Li, Yao, Pan, Mei: Contextual Transformer Networks for Visual Recognition, TPAMI 2022 (section 3.2).

    Args:
        channels: Number of channels C, a multiple of 8.
        kernel_size: Size k of the windows, odd.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of 8, or the kernel size is even or below 1.
        BadShape: For any other input shape; in training also for a batch of one, since the batch norm after
            the global mean then has a single value per channel.

    Note:
        Deviation: none from the authors' code, which has batch norms and the group norm of the weights that
        the equations of the paper leave out. Windows are never unfolded, see
        `saccade.ops.local_convolution`.

    Example:
        >>> import torch
        >>> CoT(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        check_positive("cot", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("cot", "must be odd to keep the map size", kernel_size=kernel_size)
        if channels % _SHARED:
            raise bad_option("cot", f"must be a multiple of {_SHARED}", channels=channels)
        self.channels, self.kernel_size = channels, kernel_size
        half, weights, hidden = channels // 2, kernel_size**2 * channels // _SHARED, max(channels // 2, 32)
        self.key = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=4, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.attend = nn.Sequential(
            nn.Conv2d(2 * channels, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, weights, 1),
            nn.GroupNorm(channels // _SHARED, weights),
        )
        self.value = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.norm = nn.BatchNorm2d(channels)
        self.select = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * channels, 1),
        )
        self.tap = Tap()
        self.local = _Local()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("cot", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] == 1:
            raise bad_shape("cot", "batch norm of the channel means needs at least 2 images in training", x)
        static = self.key(x)
        weights = self.attend(torch.cat([x, static], 1)).unflatten(1, (-1, self.kernel_size**2))
        dynamic = nn.functional.silu(self.norm(self.local(self.value(x), weights)))
        means = mean(dynamic.flatten(2)) + mean(static.flatten(2))
        chosen = self.select(means[..., None, None]).reshape(x.shape[0], -1, 2).softmax(2)
        if self.tap.recording:
            self.tap.publish(BranchMap.of(chosen.mT, [dynamic.detach(), static.detach()]))
        of_dynamic, of_static = chosen[..., None, None].unbind(2)
        return scale(dynamic, of_dynamic) + scale(static, of_static)


class _Local(nn.Module):
    """The local convolution, with a tap of its own for its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = Tap()

    def forward(self, value: Tensor, weights: Tensor) -> Tensor:
        if self.tap.recording:
            self.tap.publish(_local_map(weights.detach()))
        return cot(value, weights)


def _local_map(weights: Tensor) -> OffsetMap:
    """Return the map of weights (B, G, k^2, H, W): each is the query's product with a unit vector."""
    groups, taps, *grid = weights.shape[1:]
    k = math.isqrt(taps)
    queries = weights.flatten(3).mT
    units = torch.eye(taps, dtype=weights.dtype, device=weights.device).unflatten(1, (k, k))
    offsets = units.expand(weights.shape[0], groups, -1, -1, -1)
    shape = (grid[0], grid[1])
    return OffsetMap(queries, torch.zeros_like(queries), 1.0, shape, shape, offsets)


SPEC = Spec(
    name="cot",
    domain="pairwise",
    paper=Paper(
        "Contextual Transformer Networks for Visual Recognition",
        "Li, Yao, Pan, Mei",
        2022,
        "https://arxiv.org/abs/2107.12292",
    ),
    summary="mix a static context with sums over windows whose weights depend on the position",
    module=CoT,
    function=cot,
    examples=(Example("B C H W"), Example("B C H W", {"kernel_size": 5})),
    maps=(BranchMap, OffsetMap),
    flow="x -> [K -> k | a of x and k | V] -> local sums d -> [means -> S, softmax | ] -> sum -> y",
)
