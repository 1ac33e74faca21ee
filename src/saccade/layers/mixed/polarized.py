"""Polarized self-attention, Liu et al. 2022."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, check_choice, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, SpatialMap, Tap
from saccade.ops.gate_sum import scale_by_sum
from saccade.ops.gates import mean, scale
from saccade.ops.precision import no_autocast
from saccade.ops.softmax_pool import softmax_pool

Arrangement = Literal["parallel", "sequential"]
Source = Literal["code", "paper"]


def polarized(x: Tensor, context: Tensor, key: Tensor) -> Tensor:
    """Return the logits context . (key x_p) of every position p.

    The keys of the positions are not built: the context multiplies the projection, which leaves one
    direction per image. Under autocast, the function keeps the dtype of x.

    Args:
        x: Features, (B, C, N).
        context: Context of each image, (B, D).
        key: Projection of the keys, (D, C).

    Returns:
        Logits, (B, N).
    """
    with no_autocast(x):
        direction = context.to(x.dtype) @ key.to(x.dtype)
        return direction.unsqueeze(1).bmm(x).squeeze(1)


class Polarized(nn.Module):
    """Polarized self-attention: gates channels and positions, each by a description that collapses the other.

        c = sigma(U V sum_p a_p x_p)        a = softmax_p(q . x_p)
        s_p = sigma(softmax_p(l)_p)         l_p = (Q mean_p x_p) . (K x_p)
        y_p = c x_p + s_p x_p               (parallel)

    p is a position, x_p holds its C channels, and sigma is the logistic function. q (`query`), V (`value`)
    and U (`project`) belong to the module `channel`; Q (`query`) and K (`key`) to `spatial`. All are 1 x 1
    convolutions without biases; V, Q and K have C // 2 outputs. The arrangements of the authors' code differ
    in more than their order:

        x' = c x        y_p = s_p x'_p                                                           (sequential)
        c = sigma(U2 relu(LN(U1 V sum_p a_p x_p)))        l_p = sum_k (Q mean_p x'_p)_k softmax_p(K x'_p)_kp
        s_p = sigma(l_p)

    U1 and U2 have biases and C // 8 channels between them, and LN is a layer norm. The paper has the same
    gates in both arrangements, c = sigma(LN(U V sum_p a_p x_p)) and s_p = sigma(softmax_k(Q mean_p x_p) . (K
    x_p)), with the second softmax over the C // 2 channels k.

    Recording gives the two gates, at `.channel` and `.spatial`.

    References:
        Liu, Liu, Fan, Huang: Polarized Self-Attention: Towards High-Quality Pixel-Wise Mapping,
        Neurocomputing 2022 (section 3).

    Args:
        channels: Number of channels C, at least 2; at least 8 for the sequential arrangement of the code.
        arrangement: "parallel" adds both gated copies of x, "sequential" gates channels, then positions.
        source: "code" for the modules that the authors released, "paper" for the equations of the paper.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If a hidden layer would be empty, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none for "code". For "paper", convolutions have no biases, which the paper leaves open, as
        in the code. V is applied to the sum and Q to the mean, and K x_p is not built unless the code takes a
        softmax of it, so that the cost is linear in C for each position.

    Example:
        >>> import torch
        >>> Polarized(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, arrangement: Arrangement = "parallel", source: Source = "code") -> None:
        super().__init__()
        check_choice("polarized", "arrangement", arrangement, ("parallel", "sequential"))
        check_choice("polarized", "source", source, ("code", "paper"))
        form = arrangement if source == "code" else "paper"
        least = 8 if form == "sequential" else 2
        if channels < least:
            raise bad_option("polarized", f"must be at least {least}", channels=channels)
        self.channels, self.arrangement = channels, arrangement
        self.channel = _Channel(channels, form)
        self.spatial = _Spatial(channels, form)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("polarized", x, "B C H W", C=self.channels)
        of_channels = self.channel(x)[:, :, None, None]
        if self.arrangement == "parallel":
            return scale_by_sum(x, [of_channels, self.spatial(x)])
        x = scale(x, of_channels)
        return scale(x, self.spatial(x))


class _Channel(nn.Module):
    """The gate of the channels, (B, C)."""

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        half = channels // 2
        self.query = _conv(channels, 1)
        self.value = _conv(channels, half)
        if form == "sequential":
            hidden = half // 4
            self.project = nn.Sequential(
                nn.Conv2d(half, hidden, 1),
                nn.LayerNorm([hidden, 1, 1]),
                nn.ReLU(),
                nn.Conv2d(hidden, channels, 1),
            )
        else:
            self.project = nn.Sequential(nn.Conv2d(half, channels, 1, bias=False))
            if form == "paper":
                self.project.append(nn.LayerNorm([channels, 1, 1]))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        pooled, _ = softmax_pool(x.flatten(2), self.query.weight.flatten(), x.new_zeros(()))
        gate = torch.sigmoid(self.project(self.value(pooled[:, :, None, None]))).flatten(1)
        if self.tap.recording:
            self.tap.publish(ChannelMap.of(gate, x))
        return gate


class _Spatial(nn.Module):
    """The gate of the positions, (B, 1, H, W)."""

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.query = _conv(channels, channels // 2)
        self.key = _conv(channels, channels // 2)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(2)
        context: Tensor = self.query(mean(positions)[:, :, None, None]).flatten(1)
        if self.form == "sequential":
            keys = self.key(x).flatten(2).softmax(2)
            logits = context.unsqueeze(1).bmm(keys).squeeze(1)
        elif self.form == "parallel":
            logits = polarized(positions, context, self.key.weight.flatten(1)).softmax(1)
        else:
            logits = polarized(positions, context.softmax(1), self.key.weight.flatten(1))
        gate = torch.sigmoid(logits).reshape(x.shape[0], 1, *x.shape[2:])
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate[:, 0].detach()))
        return gate


def _conv(channels: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, outputs, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return conv


SPEC = Spec(
    name="polarized",
    domain="mixed",
    paper=Paper(
        "Polarized Self-Attention: Towards High-Quality Pixel-Wise Mapping",
        "Liu, Liu, Fan, Huang",
        2022,
        "https://arxiv.org/abs/2107.00782",
    ),
    summary="gate channels by a weighted mean of positions, and positions by their match with the mean",
    module=Polarized,
    function=polarized,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"arrangement": "sequential"}),
        Example("B C H W", {"source": "paper"}),
        Example("B C H W", {"arrangement": "sequential", "source": "paper"}),
    ),
    maps=(ChannelMap, SpatialMap),
    flow="x -> [[softmax, sum -> V, U, sigmoid | ] -> scale channels"
    " | [match with mean -> softmax, sigmoid | ] -> scale positions] -> add -> y",
)
