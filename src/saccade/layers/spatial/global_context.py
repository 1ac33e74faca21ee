"""The global context block, Cao et al. 2019."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.layers.widths import hidden_width
from saccade.maps import SpatialMap, Tap
from saccade.ops.gates import mean, scale
from saccade.ops.softmax_pool import softmax_pool


def global_context(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the context of each image, sum_p a_p x_p, and the weights a = softmax_p(w x_p + b).

    Without w and b, the context is the mean over the N positions p, and each weight 1 / N.

    Args:
        x: Features, (B, C, ...).
        weight: Weights w of the channels, (C,), or None.
        bias: Bias b, a scalar, or None.

    Returns:
        Contexts, (B, C), and weights, (B, N).
    """
    positions = x.flatten(2)
    if weight is None or bias is None:
        return mean(positions), torch.full_like(positions[:, 0], 1 / positions.shape[2])
    return softmax_pool(positions, weight, bias)


class GlobalContext(nn.Module):
    """Global context block: adds one context vector, a weighted mean of all positions, to every position.

        a = softmax_p(w x_p + b)        c = sum_p a_p x_p
        t = W2 relu(LN(W1 c + b1)) + b2        y_p = x_p + t

    p is a position, w and b belong to the convolution `mask` to one channel, a are the weights, c is the
    context, LN a layer norm, and t the result of `add`, whose layers W1 and W2 are 1 x 1 convolutions. With
    `fusion="multiply"`, the block `multiply` with the same layers gives t' and the gate of y_p = sigma(t')
    x_p, where sigma is the logistic function; "both" multiplies, then adds: y_p = sigma(t') x_p + t. Both use
    the context of the original x.

    W2 and b2 are initialized with 0, so that initially y = x exactly for "add", and y = x / 2 otherwise.
    `mask` has He initialization with bias 0. The block is the simplified non-local block with a bottleneck:
    all positions share one row of weights, and the cost is linear in their number.

    References:
        Cao, Xu, Lin, Wei, Hu: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCV
        Workshops 2019 (equation 5).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r, from 1 to C. The hidden layers have C // r channels.
        pool: How positions are pooled: "attention" for the weights a, "mean" for equal weights, without
            `mask`.
        fusion: How the context acts on x: "add", "multiply" or "both".
        hidden: Width of the hidden layers in place of C // r.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If C < r, since the hidden layer would be empty, or another option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code for images; sequences and clips use the same parameters. The
        recorded map holds the weights a, which are all 1 / N for the mean of N positions.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(GlobalContext(32)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pool: Literal["attention", "mean"] = "attention",
        fusion: Literal["add", "multiply", "both"] = "add",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        width = hidden_width("global_context", channels, reduction, hidden)
        check_choice("global_context", "pool", pool, ("attention", "mean"))
        check_choice("global_context", "fusion", fusion, ("add", "multiply", "both"))
        self.channels = channels
        self.mask = nn.Conv2d(channels, 1, 1) if pool == "attention" else None
        self.add = None if fusion == "multiply" else _bottleneck(channels, width)
        self.multiply = None if fusion == "add" else _bottleneck(channels, width)
        self.tap = Tap()
        if self.mask is not None:
            nn.init.kaiming_normal_(self.mask.weight)
            nn.init.zeros_(self.mask.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("global_context", x, "B C ...", C=self.channels)
        if isinstance(self.mask, nn.Conv2d) and self.mask.bias is not None:
            context, weights = global_context(x, self.mask.weight.flatten(), self.mask.bias.squeeze(0))
        else:
            context, weights = global_context(x)
        if self.tap.recording:
            self.tap.publish(SpatialMap(weights.detach().reshape(x[:, 0].shape)))
        context = context[..., None, None]
        y, ones = x, [1] * (x.ndim - 2)
        if self.multiply is not None:
            y = scale(y, torch.sigmoid(self.multiply(context)).reshape(*x.shape[:2], *ones))
        if self.add is not None:
            y = y + self.add(context).reshape(*x.shape[:2], *ones)
        return y


def _bottleneck(channels: int, hidden: int) -> nn.Sequential:
    last = nn.Conv2d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.get_parameter("bias"))
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), last)


SPEC = Spec(
    name="global_context",
    domain="spatial",
    paper=Paper(
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        "Cao, Xu, Lin, Wei, Hu",
        2019,
        "https://arxiv.org/abs/1904.11492",
    ),
    summary="add to all positions one weighted mean of them, after a bottleneck initialized with 0",
    module=GlobalContext,
    function=global_context,
    examples=(
        Example("B C H W"),
        Example("B C W", {"reduction": 4}),
        Example("B C T H W", {"fusion": "both"}),
        Example("B C H W", {"reduction": 4, "pool": "mean", "fusion": "multiply"}),
    ),
    maps=(SpatialMap,),
    flow="x -> [[w, softmax | ] -> weighted sum -> W1, LN, ReLU -> W2 | ] -> add -> y",
)
