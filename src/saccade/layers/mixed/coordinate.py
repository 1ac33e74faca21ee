"""Coordinate attention, Hou et al. 2021."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, mean_of_products, scale, scale_rows_and_columns
from saccade.ops.small_convolution import convolve


def coordinate(
    x: Tensor, encode: Callable[[Tensor], Tensor], rows: nn.Module, columns: nn.Module
) -> tuple[Tensor, Tensor]:
    """Return the logits of rows and of columns, rows(f_h) and columns(f_w). The gates are their sigmoids.

    f_h and f_w are the first H and the last W positions of encode([mean_w x; mean_h x]).

    Args:
        x: Features, (B, C, H, W).
        encode: Function from the means along both axes, (B, C, H + W, 1), to (B, D, H + W, 1).
        rows: Module from (B, D, H, 1) to the logits of rows, (B, C, H, 1).
        columns: Module from (B, D, 1, W) to the logits of columns, (B, C, 1, W).

    Returns:
        Logits of rows, (B, C, H, 1), and of columns, (B, C, 1, W).
    """
    height, width = x.shape[2:]
    if x.stride(1) == 1:  # channels_last, which the convolutions then keep
        means = torch.cat([mean(x).mT, mean(x.mT).mT], dim=1).unsqueeze(2).permute(0, 3, 1, 2)
    else:
        means = torch.cat([mean(x), mean(x.mT)], dim=2).unsqueeze(-1)
    by_row, by_column = encode(means).split([height, width], dim=2)
    return convolve(rows, by_row), convolve(columns, by_column.mT)


class Coordinate(nn.Module):
    """Coordinate attention: gates each channel by its row and by its column.

        [f_h; f_w] = h_swish(BN(W1 [mean_w x; mean_h x] + b1))        h_swish(z) = z relu6(z + 3) / 6
        a_h = sigma(W_h f_h + b_h)        a_w = sigma(W_w f_w + b_w)        y_chw = a_h,ch a_w,cw x_chw

    mean_w averages each row and mean_h each column; [;] joins them to a strip of H + W positions. W1 is
    `reduce`, with max(8, C // r) outputs, W_h is `rows` and W_w is `columns`; all are 1 x 1 convolutions with
    biases. sigma is the logistic function, a_h and a_w are the gates, and y is the output.

    With `variant="simple"`, the strip has no norm and the nonlinearity z sigma(z), and one gate has the sum
    of both logits: y_chw = sigma(W_h f_h + b_h + W_w f_w + b_w) x_chw.

    Recording gives one map, the gate, averaged over channels: mean_c a_h,ch a_w,cw.

    References:
        Hou, Zhou, Feng: Coordinate Attention for Efficient Mobile Network Design, CVPR 2021 (equations 4 to
        9).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r of the strip, at least 1. The strip has at least 8 channels.
        variant: "paper" or "simple", which is the `SimpleCoordAttn` of timm.
        bias: Whether the convolutions have biases.
        hidden: Number of channels of the strip in place of max(8, C // r).

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code. The nonlinearity of the strip, which the paper leaves open, is
        that of the code, as is the bound of 8 channels. Beside the input and the output, one map is held for
        the backward pass.

    Example:
        >>> import torch
        >>> Coordinate(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        variant: Literal["paper", "simple"] = "paper",
        bias: bool = True,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("coordinate", "variant", variant, ("paper", "simple"))
        check_positive("coordinate", reduction=reduction)
        width = max(8, channels // reduction) if hidden is None else hidden
        check_positive("coordinate", hidden=width)
        self.channels, self.is_simple = channels, variant == "simple"
        self.reduce = nn.Conv2d(channels, width, 1, bias=bias)
        self.norm = nn.Identity() if self.is_simple else nn.BatchNorm2d(width)
        self.activation = nn.SiLU() if self.is_simple else nn.Hardswish()
        self.rows = nn.Conv2d(width, channels, 1, bias=bias)
        self.columns = nn.Conv2d(width, channels, 1, bias=bias)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("coordinate", x, "B C H W", C=self.channels)
        rows, columns = coordinate(x, self._encode, self.rows, self.columns)
        if self.is_simple:
            gate = torch.sigmoid(rows + columns)
            if self.tap.recording:
                self.tap.publish(SpatialMap(gate.detach().mean(1)))
            return scale(x, gate)
        a_h, a_w = torch.sigmoid(rows), torch.sigmoid(columns)
        if self.tap.recording:
            self.tap.publish(SpatialMap(mean_of_products(a_h.detach(), a_w.detach())))
        return scale_rows_and_columns(x, a_h, a_w)

    def _encode(self, means: Tensor) -> Tensor:
        encoded: Tensor = self.activation(self.norm(convolve(self.reduce, means)))
        return encoded


SPEC = Spec(
    name="coordinate",
    domain="mixed",
    paper=Paper(
        "Coordinate Attention for Efficient Mobile Network Design",
        "Hou, Zhou, Feng",
        2021,
        "https://arxiv.org/abs/2103.02907",
    ),
    summary="gate each channel by its row and by its column",
    module=Coordinate,
    function=coordinate,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"hidden": 6, "bias": False}),
        Example("B C H W", {"variant": "simple"}),
    ),
    maps=(SpatialMap,),
    flow="x -> [[row means | column means] -> W1, BN, h-swish -> [W_h | W_w] -> sigma | ] -> scale -> y",
)
