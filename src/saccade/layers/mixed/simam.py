"""SimAM, Yang et al. 2021."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import bad_shape, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap
from saccade.ops.eager import is_eager

_VALUES = 1 << 20  # values processed at a time, so that temporary results stay in the cache


def simam(x: Tensor, lam: float = 1e-4) -> Tensor:
    """Return the weights sigma(d / (4 (v + lam)) + 1/2) with d = (x - mean_p x)^2 and v = sum_p d / (N - 1).

    Half precision is computed in float32, because sums of squares overflow in float16.

    Args:
        x: Features, (B, C, ...), with N >= 2 positions p.
        lam: Regularization of the variance v.

    Returns:
        Weights, the shape of x.
    """
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [*range(2, x.ndim)]
    squares = (precise - precise.mean(axes, keepdim=True)).square()
    variance = squares.sum(axes, keepdim=True) / (_positions(x) - 1)
    return torch.sigmoid(squares / (4 * (variance + lam)) + 0.5).to(x.dtype)


class SimAM(nn.Module):
    """SimAM: gates each value by how far it is from the mean of its channel, without parameters.

        d_cp = (x_cp - mean_p x_cp)^2        v_c = sum_p d_cp / (N - 1)
        y_cp = sigma(d_cp / (4 (v_c + lambda)) + 1/2) x_cp

    c is a channel, p one of N positions, v_c the unbiased variance, sigma the logistic function and y the
    output. The argument of sigma is the inverse of the least energy of a linear classifier that separates the
    value from all others of its channel: what stands out has a low energy and a large weight. The weights lie
    between sigma(1/2) = 0.62 and 1.

    Recording gives one map, the mean of the weights over channels.

    References:
        Yang, Zhang, Li, Xie: SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural
        Networks, ICML 2021 (section 3).

    Args:
        channels: Number of channels C.
        lam: Regularization lambda, positive. The authors use 1e-4 for CIFAR and 0.1 for ImageNet.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), with at least 2 positions.
        - Output: same shape as the input.

    Raises:
        BadOption: If `lam` is not a positive number.
        BadShape: For any other input shape; for a single position, which has no variance.

    Note:
        Deviation: the authors' code returns NaN for a single position; this module raises an error. Only the
        input is held for the backward pass, which computes the weights again.

    Example:
        >>> import torch
        >>> SimAM(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, lam: float = 1e-4) -> None:
        super().__init__()
        check_positive_number("simam", lam=lam)
        self.channels, self.lam = channels, lam
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("simam", x, "B C ...", C=self.channels)
        if _positions(x) == 1:
            raise bad_shape("simam", "the variance of a channel needs at least 2 positions", x)
        if self.tap.recording:
            self.tap.publish(SpatialMap(simam(x.detach(), self.lam).mean(1)))
        if not is_eager():
            return x * simam(x, self.lam)
        y: Tensor = _Gated.apply(x, self.lam)
        return y


def _positions(x: Tensor) -> int:
    return math.prod(x.shape[2:])


class _Gated(torch.autograd.Function):
    """Compute x * simam(x) and its gradient, a few images at a time.

        dx = s dy + 2 k (q c - mean_p(q c) - 4 k c sum_p(q c^2) / (N - 1))

    Here c = x - mean_p x, k = 1 / (4 (v + lambda)), s = sigma(k c^2 + 1/2), and q = x s (1 - s) dy.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, lam: float) -> Tensor:
        return _by_chunks(lambda part: _weights(part, lam)[2].mul_(part), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], _: Tensor) -> None:
        x, ctx.lam = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (dy,), (x,), lam = gradients, ctx.saved_tensors, ctx.lam
        if torch.is_grad_enabled():  # for second derivatives
            return torch.autograd.grad(x * simam(x, lam), x, dy, create_graph=True)[0], None
        return _by_chunks(lambda part, d_part: _gradient(part, d_part, lam), x, dy), None


def _gradient(x: Tensor, dy: Tensor, lam: float) -> Tensor:
    axes, divisor = [*range(2, x.ndim)], _positions(x) - 1
    c, k, s = _weights(x, lam)
    qc = (1 - s).mul_(s).mul_(x).mul_(dy).mul_(c)
    mean, slope = qc.mean(axes, keepdim=True), (qc * c).sum(axes, keepdim=True) * (4 * k / divisor)
    return s.mul_(dy).add_(qc.sub_(mean).sub_(c.mul_(slope)).mul_(2 * k))


def _weights(x: Tensor, lam: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return c, k and s as in `_Gated`, in at least float32 and with no other tensor of the size of x."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    axes, divisor = [*range(2, x.ndim)], _positions(x) - 1
    c = x - x.mean(axes, keepdim=True)
    s = c.square()
    k = 0.25 / (s.sum(axes, keepdim=True) / divisor + lam)
    return c, k, s.mul_(k).add_(0.5).sigmoid_()


def _by_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return function(*tensors) in the dtype of the first tensor, a few images at a time."""
    images, first = max(1, _VALUES // tensors[0][:1].numel()), tensors[0]
    if images >= first.shape[0]:
        return function(*tensors).to(first.dtype)
    result = torch.empty_like(first)
    for part, *chunks in zip(*(x.split(images) for x in (result, *tensors)), strict=True):
        part.copy_(function(*chunks))
    return result


SPEC = Spec(
    name="simam",
    domain="mixed",
    paper=Paper(
        "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
        "Yang, Zhang, Li, Xie",
        2021,
        "https://proceedings.mlr.press/v139/yang21o.html",
    ),
    summary="gate each value by its squared distance from the mean of its channel, without parameters",
    module=SimAM,
    function=simam,
    examples=(Example("B C H W"), Example("B C W"), Example("B C T H W"), Example("B C H W", {"lam": 0.1})),
    maps=(SpatialMap,),
    flow="x -> [squared distance from mean -> / variance -> sigmoid | ] -> multiply -> y",
)
