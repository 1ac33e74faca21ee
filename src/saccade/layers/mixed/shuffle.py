"""Shuffle attention, Zhang and Yang 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap
from saccade.ops.gates import mean


def shuffle(x: Tensor, by_channel: Tensor, by_place: Tensor) -> Tensor:
    """Return the gated halves of all groups, with the channels of both halves of the result in turn.

    Channel j of the first half of all C channels becomes channel 2 j, and that of the second half 2 j + 1.

    Args:
        x: Groups of two halves of K channels, (B, G, 2, K, N), so that C = 2 G K.
        by_channel: Gates of the first halves, (B, G, K, 1).
        by_place: Gates of the second halves, (B, G, K, N).

    Returns:
        Gated features, (B, C, N).

    Example:
        >>> import torch
        >>> x, ones = torch.arange(6).reshape(1, 1, 2, 3, 1), torch.ones(1, 1, 3, 1, dtype=torch.long)
        >>> shuffle(x, ones, ones).flatten().tolist()
        [0, 3, 1, 4, 2, 5]
    """
    first, second = x.unbind(2)
    halves = first * by_channel, second * by_place
    if x.shape[1] % 2:
        return torch.stack(halves, 2).reshape(x.shape[0], 2, -1, x.shape[-1]).transpose(1, 2).flatten(1, 2)
    # With an even number of groups, joining the halves and shuffling the channels is one copy.
    pairs = [half.unflatten(1, (2, -1)).movedim(1, 3) for half in halves]
    return torch.stack(pairs, 2).flatten(1, 4)


class Shuffle(nn.Module):
    """Shuffle attention: in each group of channels, gates one half by channel and the other by position.

        u_cp = sigma(w_c mean_p x_cp + b_c) x_cp        for the first half of each group
        u_cp = sigma(w'_c n_cp + b'_c) x_cp             for the second half
        n_cp = g_c (x_cp - mean_p x_cp) / sqrt(var_p x_cp + 1e-5) + h_c
        y_2j = u_j,  y_2j+1 = u_(C / 2 + j)

    The C channels form G groups; a half group has C / 2G channels c, whose parameters all groups share: w
    (`cweight`), b (`cbias`), w' (`sweight`), b' (`sbias`), and g, h of the group norm `norm`, which has one
    channel per group. p is a position and sigma the logistic function. The last line is the channel shuffle.
    w and w' are initialized with 0 and b and b' with 1, so that initially all gates are sigma(1) = 0.73.

    Recording gives two maps, at `.channel` and `.spatial`: the mean of all gates over positions and over
    channels, in the order of the input.

    References:
        Zhang, Yang: SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, ICASSP 2021 (equations
        1 to 4).

    Args:
        channels: Number of channels C, a multiple of 2 `groups`.
        groups: Number of groups G, at least 1.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If C is not a multiple of 2 `groups`, or `groups` is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: none. The scale and shift of the second half are part of the parameters of the norm when it
        is computed, which saves two passes over the half. A map of a single position has n = h.

    Example:
        >>> import torch
        >>> Shuffle(32, groups=4)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        check_positive("shuffle", groups=groups)
        if channels % (2 * groups):
            expected = f"must be a multiple of {2 * groups}, two halves of groups={groups}"
            raise bad_option("shuffle", expected, channels=channels)
        self.channels, self.groups = channels, groups
        half = channels // (2 * groups)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm = nn.GroupNorm(half, half)
        self.channel = _Recorder()
        self.spatial = _Recorder()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("shuffle", x, "B C ...", C=self.channels)
        groups = x.contiguous().flatten(2).unflatten(1, (self.groups, 2, -1))
        first, second = groups.unbind(2)
        by_channel = torch.sigmoid(self.cweight[..., 0] * mean(first).unsqueeze(-1) + self.cbias[..., 0])
        by_place = torch.sigmoid(self._normalized(second))
        if self.channel.tap.recording or self.spatial.tap.recording:
            self._publish(by_channel.expand_as(by_place), by_place, x)
        return shuffle(groups, by_channel, by_place).reshape(x.shape)

    def _normalized(self, x: Tensor) -> Tensor:
        """Return w' n + b', with scale and shift as those of the norm."""
        weight = self.sweight.flatten() * self.norm.weight
        bias = self.sweight.flatten() * self.norm.bias + self.sbias.flatten()
        groups = x.flatten(0, 1)
        return torch.group_norm(groups, groups.shape[1], weight, bias, self.norm.eps).reshape(x.shape)

    def _publish(self, by_channel: Tensor, by_place: Tensor, x: Tensor) -> None:
        gate = torch.stack((by_channel, by_place), 2).detach().reshape(x.shape)
        self.channel.tap.publish(ChannelMap.of(gate.flatten(2).mean(2), x))
        self.spatial.tap.publish(SpatialMap(gate.mean(1)))


class _Recorder(nn.Module):
    """The place of one of the two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = Tap()


SPEC = Spec(
    name="shuffle",
    domain="mixed",
    paper=Paper(
        "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
        "Zhang, Yang",
        2021,
        "https://arxiv.org/abs/2102.00240",
    ),
    summary="gate half of each group by channel and half by position, and shuffle the channels",
    module=Shuffle,
    function=shuffle,
    examples=(
        Example("B C H W", {"groups": 4}),
        Example("B C W", {"groups": 2}),
        Example("B C T H W", {"groups": 1}),
        Example("B C H W", {"groups": 8}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [[mean -> scale, shift, sigmoid | ] -> multiply"
    " | [group norm -> scale, shift, sigmoid | ] -> multiply] -> shuffle -> y",
)
