"""Bilinear attentional transform, Chi et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_positive, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import make_divisible
from saccade.maps import PairwiseMap, Tap


def bat(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return P x Q for each group of channels: blocks are mixed, positions within a block stay apart.

    Args:
        x: Features, (B, R, H, W); H and W are multiples of the number s of blocks on a side.
        rows: Weights P of rows of blocks, from output to input, (B, groups, s, s).
        columns: Weights Q of columns of blocks, from input to output, (B, groups, s, s).

    Returns:
        Features, (B, R, H, W).
    """
    groups, blocks = rows.shape[1:3]
    y = x.unflatten(3, (blocks, -1)).unflatten(2, (blocks, -1)).unflatten(1, (groups, -1))
    y = torch.einsum("bgmi,bgciajd->bgcmajd", rows, y)
    y = torch.einsum("bgcmajd,bgjn->bgcmand", y, columns)
    return y.reshape(x.shape)


class Bat(nn.Module):
    """Non-local block with a bilinear attentional transform: each block of a map takes from all blocks.

        z = f_1(x)        y = x + dropout(f_2(h(P z Q)))
        P = norm_i(sigma(W_p * max(g(z)) + b_p))        Q = norm_j(sigma(W_q * max(g(z)) + b_q))

    The map is divided into s x s blocks. P_mi is the weight of row i of blocks for row m, Q_jn that of column
    j for column n, one pair for each group of channels; P sums to 1 over i, Q over j. The maxima are over the
    rows, or the columns, of blocks. f_1 (`conv1`, C to R), g (`ba.conv1`, R to groups), h (`ba.conv2`) and
    f_2 (`conv2`, R to C) are 1 x 1 convolutions with batch norm and ReLU; W_p and W_q are `ba.conv_p` and
    `ba.conv_q`. sigma is the logistic function. Dropout drops whole channels.

    The recorded map is on the grid of blocks: the weight P_mi Q_jn of block (i, j) for block (m, n), with
    the groups as heads. A position takes from the positions at its place in the blocks.

    References:
        Chi, Yuan, Mu, Wang: Non-Local Neural Networks With Grouped Bilinear Attentional Transforms, CVPR 2020
        (section 3).

    Args:
        channels: Number of channels C.
        block_size: Number s of blocks on each side, at least 1; height and width are multiples of it.
        groups: Number of groups, a divisor of R.
        rd_ratio: Ratio of R to C, above 0.
        rd_channels: Number R of inner channels; by default, `rd_ratio` C, rounded to a multiple of
            `rd_divisor`.
        rd_divisor: Divisor of R, at least 1.
        drop_rate: Rate of dropout, from 0 to less than 1.

    Shape:
        - Input: (B, C, H, W), H and W multiples of `block_size`.
        - Output: (B, C, H, W).

    Raises:
        BadOption: If R is not a multiple of the number of groups, or an option is out of range.
        BadShape: For any other input shape; in training also for a single position in the batch, which has no
            batch statistics.

    Note:
        The result, the names of parameters and the options are those of timm's `BatNonLocalAttn`, whose
        `state_dict` loads, without its options for other layers. P and Q are never expanded to the size of
        the map or to all channels.

    Example:
        >>> import torch
        >>> Bat(32)(torch.randn(2, 32, 14, 7)).shape
        torch.Size([2, 32, 14, 7])
    """

    def __init__(
        self,
        channels: int,
        block_size: int = 7,
        groups: int = 2,
        rd_ratio: float = 0.25,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        drop_rate: float = 0.2,
    ) -> None:
        super().__init__()
        check_positive("bat", block_size=block_size, groups=groups, rd_divisor=rd_divisor)
        check_positive_number("bat", rd_ratio=rd_ratio)
        inner = make_divisible(channels * rd_ratio, rd_divisor) if rd_channels is None else rd_channels
        check_positive("bat", rd_channels=inner)
        if inner % groups:
            raise bad_option("bat", f"must be a multiple of groups={groups}", rd_channels=inner)
        if not 0 <= drop_rate < 1:
            raise bad_option("bat", "must be at least 0 and less than 1", drop_rate=drop_rate)
        self.channels, self.block_size = channels, block_size
        self.conv1 = _ConvBNReLU(channels, inner)
        self.ba = _Transform(inner, block_size, groups)
        self.conv2 = _ConvBNReLU(inner, channels)
        self.dropout = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("bat", x, "B C H W", C=self.channels)
        blocks = self.block_size
        if x.shape[2] % blocks or x.shape[3] % blocks:
            raise bad_shape("bat", f"needs a height and a width that are multiples of block_size={blocks}", x)
        if self.training and x.numel() == self.channels:
            raise bad_shape("bat", "batch norm needs more than one position in training", x)
        y: Tensor = self.dropout(self.conv2(self.ba(self.conv1(x))))
        return x + y


class _Transform(nn.Module):
    """The bilinear attentional transform of the inner channels, with the tap."""

    def __init__(self, channels: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.blocks, self.groups = blocks, groups
        self.conv1 = _ConvBNReLU(channels, groups)
        self.conv_p = nn.Conv2d(groups, blocks * blocks * groups, (blocks, 1))
        self.conv_q = nn.Conv2d(groups, blocks * blocks * groups, (1, blocks))
        self.conv2 = _ConvBNReLU(channels, channels)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv1(x)
        of_rows = maps.unflatten(2, (self.blocks, -1)).amax((3, 4)).unsqueeze(3)
        of_columns = maps.unflatten(3, (self.blocks, -1)).amax((2, 4)).unsqueeze(2)
        # sigma(z) / sum sigma(z) = softmax(log sigma(z)), which does not divide by a sum that underflows
        logs_p, logs_q = (
            F.logsigmoid(f(z)).reshape(-1, self.groups, self.blocks, self.blocks)
            for f, z in ((self.conv_p, of_rows), (self.conv_q, of_columns))
        )
        p, q = logs_p.softmax(3), logs_q.softmax(2)
        if self.tap.recording:
            self.tap.publish(_block_map(p.detach(), q.detach()))
        y: Tensor = self.conv2(bat(x, p, q))
        return y


def _block_map(p: Tensor, q: Tensor) -> PairwiseMap:
    """Return the map of the weights P_mi Q_jn: their logarithms are products with unit vectors of i and j."""
    blocks = p.shape[2]
    logs = (z.clamp(min=torch.finfo(z.dtype).tiny).log() for z in (p, q.mT))
    rows, columns = logs
    queries = torch.cat([rows.repeat_interleave(blocks, 2), columns.repeat(1, 1, blocks, 1)], 3)
    units = torch.eye(blocks, dtype=p.dtype, device=p.device)
    keys = torch.cat([units.repeat_interleave(blocks, 0), units.repeat(blocks, 1)], 1)
    grid = (blocks, blocks)
    return PairwiseMap(queries, keys.expand(*p.shape[:2], -1, -1), 1.0, grid, grid)


class _ConvBNReLU(nn.Module):
    """A 1 x 1 convolution without bias, batch norm and ReLU, with timm's names."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


SPEC = Spec(
    name="bat",
    domain="pairwise",
    paper=Paper(
        "Non-Local Neural Networks With Grouped Bilinear Attentional Transforms",
        "Chi, Yuan, Mu, Wang",
        2020,
        "https://openaccess.thecvf.com/content_CVPR_2020/html/Chi_Non-Local_Neural_Networks_With_Grouped_Bilinear_Attentional_Transforms_CVPR_2020_paper.html",
    ),
    summary="mix the blocks of a map by weights of their rows and of their columns",
    module=Bat,
    function=bat,
    examples=(
        Example("B C 14 7", {"drop_rate": 0.0}),
        Example("B C 4 6", {"block_size": 2, "groups": 4, "rd_ratio": 0.5, "drop_rate": 0.0}),
    ),
    maps=(PairwiseMap,),
    flow="x -> [f_1 -> [g -> [max, W_p | max, W_q] -> P, Q | ] -> P z Q -> h, f_2 | ] -> add -> y",
)
