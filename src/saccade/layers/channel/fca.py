"""Frequency channel attention, Qin et al. 2021."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_choice, check_reduction, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_channels
from saccade.ops.precision import no_autocast

Frequencies: TypeAlias = Literal[
    "top1", "top2", "top4", "top8", "top16", "top32",
    "low1", "low2", "low4", "low8", "low16", "low32",
    "bot1", "bot2", "bot4", "bot8", "bot16", "bot32",
]  # fmt: skip

#: Frequencies along height and width, a pair of digits each, in the authors' order: by the accuracy of a
#: network that uses one of them (best first, worst first), and by frequency.
_FREQUENCIES = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}
_GRID = 7  # positions along each axis to which these frequencies refer


def fca(x: Tensor, bases: Tensor, reduce: nn.Module, expand: nn.Module) -> Tensor:
    """Return the channel weights sigma(W2 relu(W1 z)) with z_c = sum_ij d_cij P(x)_cij.

    P averages x over the windows of an adaptive pool to the size of the bases. It is two products with
    matrices of averages, the identity if x has that size.

    Args:
        x: Features, (B, C, H, W).
        bases: One basis image d for each channel, (C, S, S).
        reduce: Linear layer W1 from C to C // r.
        expand: Linear layer W2 from C // r to C.

    Returns:
        Weights, (B, C).
    """
    with no_autocast(x):
        rows, columns = (_windows(length, bases.shape[-1], x) for length in x.shape[2:])
        pooled = rows @ (x @ columns.mT)
        descriptor = torch.einsum("bchw,chw->bc", pooled, bases.to(x.dtype))
    return torch.sigmoid(expand(F.relu(reduce(descriptor))))


def _windows(length: int, size: int, like: Tensor) -> Tensor:
    """Return the averages of an adaptive pool as a matrix, (size, length)."""
    index = torch.arange(size, device=like.device).unsqueeze(1)
    first, end = index * length // size, ((index + 1) * length + size - 1) // size
    place = torch.arange(length, device=like.device)
    return ((place >= first) & (place < end)).to(like.dtype) / (end - first).to(like.dtype)


class FCA(nn.Module):
    """Frequency channel attention: gates each channel by an MLP of one DCT coefficient of every channel.

        z_c = sum_hw d_c,hw x_chw        s = sigma(W2 relu(W1 z))        y_chw = s_c x_chw
        d_c,hw = f(u_c, h) f(v_c, w)     f(u, i) = sqrt((2 - [u = 0]) / S) cos(pi u (i + 1/2) / S)

    The K frequencies (u, v) of `frequencies` are given on a grid of 7 x 7 and multiplied by S // 7; the C
    channels form K equal parts, one for each. Maps of another size than S x S are first averaged to S x S by
    an adaptive pool. The frequency (0, 0) is S times the mean of squeeze-and-excitation. W1 is `reduce`, W2
    is `expand`, sigma the logistic function; the basis images d are the buffer `bases`.

    References:
        Qin, Zhang, Wu, Li: FcaNet: Frequency Channel Attention Networks, ICCV 2021
        (section 3).

    Args:
        channels: Number of channels C, a multiple of the number of frequencies K.
        reduction: Reduction ratio r, from 1 to C. The hidden layer has C // r units.
        frequencies: The criterion "top" (most accurate alone), "low" (lowest) or "bot" (least accurate
            alone), and the number K: 1, 2, 4, 8, 16 or 32.
        size: Height and width S of the basis images, at least 7. The authors' networks use 56, 28, 14 and 7
            in their four stages.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C is not a multiple of K, C < r, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none. As in the authors' code, z is a sum, not a mean, and both layers have no bias. A size
        below 7, which would make all frequencies 0, is refused.

    Example:
        >>> import torch
        >>> FCA(64)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    bases: Tensor

    def __init__(
        self, channels: int, reduction: int = 16, frequencies: Frequencies = "top16", size: int = 7
    ) -> None:
        super().__init__()
        check_reduction("fca", channels, reduction=reduction)
        check_choice("fca", "frequencies", frequencies, get_args(Frequencies))
        if isinstance(size, bool) or not isinstance(size, int) or size < _GRID:
            raise bad_option("fca", f"must be an integer of at least {_GRID}", size=size)
        criterion, count = frequencies[:3], int(frequencies[3:])
        if channels % count:
            raise bad_option("fca", f"must be a multiple of the {count} frequencies", channels=channels)
        self.channels = channels
        pairs = [divmod(int(pair), 10) for pair in _FREQUENCIES[criterion].split()[:count]]
        images = torch.stack([_dct(u, size).outer(_dct(v, size)) for u, v in pairs])
        images = images.to(torch.get_default_dtype())
        self.register_buffer("bases", images.repeat_interleave(channels // count, dim=0))
        self.reduce = nn.Linear(channels, channels // reduction, bias=False)
        self.expand = nn.Linear(channels // reduction, channels, bias=False)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("fca", x, "B C H W", C=self.channels)
        return gate_channels(x, fca(x, self.bases, self.reduce, self.expand), self.tap)


def _dct(frequency: int, size: int) -> Tensor:
    """Return the basis function f(u, i) of a frequency on the grid of 7 positions."""
    frequency *= size // _GRID
    wave = torch.cos(math.pi * frequency * (torch.arange(size, dtype=torch.float64) + 0.5) / size)
    return wave * math.sqrt((2 if frequency else 1) / size)


SPEC = Spec(
    name="fca",
    domain="channel",
    paper=Paper(
        "FcaNet: Frequency Channel Attention Networks",
        "Qin, Zhang, Wu, Li",
        2021,
        "https://arxiv.org/abs/2012.11820",
    ),
    summary="gate each channel by an MLP of one DCT coefficient of every channel",
    module=FCA,
    function=fca,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"reduction": 4, "frequencies": "low8", "size": 14}),
    ),
    maps=(ChannelMap,),
    flow="x -> [adaptive mean -> DCT -> W1, ReLU -> W2, sigmoid | ] -> scale channels -> y",
)
