"""Efficient local attention, Xu and Wan 2024."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_choice, check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, mean_of_products, scale_rows_and_columns


def ela(
    x: Tensor, rows: Callable[[Tensor], Tensor], columns: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the weights of rows, sigma(rows(mean_w x)), and of columns, sigma(columns(mean_h x)).

    Args:
        x: Features, (B, C, H, W).
        rows: Function of the means of rows, (B, C, H) to (B, C, H).
        columns: Function of the means of columns, (B, C, W) to (B, C, W).

    Returns:
        Weights of rows, (B, C, H, 1), and of columns, (B, C, 1, W).
    """
    return rows(mean(x)).sigmoid().unsqueeze(3), columns(mean(x.mT)).sigmoid().unsqueeze(2)


class ELA(nn.Module):
    """Efficient local attention: gates each channel by its row and by its column, by one 1-D convolution.

        a_h = sigma(GN(F * mean_w x))        a_w = sigma(GN(F * mean_h x))        y_chw = a_h,ch a_w,cw x_chw

    mean_w averages each row and mean_h each column. F is the convolution `conv` of k neighbors, without bias,
    and GN the group norm `norm`; both axes share them. * is a convolution with zero padding, and sigma the
    logistic function. Unlike coordinate attention, no channels are reduced and both axes stay apart.

    With `variant="timm"`, each axis has a convolution and a norm of its own, with the nonlinearity z sigma(z)
    between GN and sigma.

    Recording gives one map, the product of the gates, averaged over channels: mean_c a_h,ch a_w,cw.

    References:
        Xu, Wan: ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv 2024
        (section 3).

    Args:
        channels: Number of channels C, a multiple of both numbers of groups.
        kernel_size: Kernel size k, odd.
        groups: Groups of the convolution. None is C // 8, at least 1.
        norm_groups: Groups of the norm.
        variant: "paper" or "timm", which with C groups and one group of the norm is its
            `EfficientLocalAttn`.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of the groups, the kernel size is even, or an option is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: none. The defaults are ELA-L of the paper. ELA-S has k = 5; ELA-B has k = 7 and C groups,
        ELA-T k = 5, C groups and 32 groups of the norm.

    Example:
        >>> import torch
        >>> ELA(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        groups: int | None = None,
        norm_groups: int = 16,
        variant: Literal["paper", "timm"] = "paper",
    ) -> None:
        super().__init__()
        groups = max(1, channels // 8) if groups is None else groups
        check_choice("ela", "variant", variant, ("paper", "timm"))
        check_positive("ela", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("ela", "must be odd to keep the map size", kernel_size=kernel_size)
        check_multiple("ela", channels, groups=groups, norm_groups=norm_groups)
        self.channels = channels
        is_shared = variant == "paper"
        self.conv = _strip(channels, kernel_size, groups)
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.column_conv = None if is_shared else _strip(channels, kernel_size, groups)
        self.column_norm = None if is_shared else nn.GroupNorm(norm_groups, channels)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("ela", x, "B C H W", C=self.channels)
        rows, columns = ela(x, self._rows, self._columns)
        if self.tap.recording:
            self.tap.publish(SpatialMap(mean_of_products(rows.detach(), columns.detach())))
        return scale_rows_and_columns(x, rows, columns)

    def _rows(self, means: Tensor) -> Tensor:
        normed = _group_norm(self.norm, self.conv(means))
        return normed if self.column_conv is None else F.silu(normed)

    def _columns(self, means: Tensor) -> Tensor:
        if self.column_conv is None or self.column_norm is None:
            return self._rows(means)
        return F.silu(_group_norm(self.column_norm, self.column_conv(means)))


def _strip(channels: int, kernel_size: int, groups: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)


def _group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return the group norm of x. F.group_norm would refuse groups of a single value."""
    return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


SPEC = Spec(
    name="ela",
    domain="spatial",
    paper=Paper(
        "ELA: Efficient Local Attention for Deep Convolutional Neural Networks",
        "Xu, Wan",
        2024,
        "https://arxiv.org/abs/2403.01123",
    ),
    summary="gate each channel by its row and by its column, with one 1-D convolution for both",
    module=ELA,
    function=ela,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"kernel_size": 3, "groups": 16, "norm_groups": 1}),
        Example("B C H W", {"groups": 32, "norm_groups": 1, "variant": "timm"}),
    ),
    maps=(SpatialMap,),
    flow="x -> [[row means | column means] -> 1-D conv k, GN -> sigmoid | ] -> scale -> y",
)
