"""Layers as explicit sums over taps, windows and neighbors: the vocabulary of the references."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.parity import Parameters, assert_close

Statistics = tuple[Tensor, Tensor]  # mean and variance


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def relu(x: Tensor) -> Tensor:
    return torch.clamp(x, min=0)


def pointwise(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Apply the 1 x 1 convolution or linear layer `name`, with a bias if it has one."""
    y = torch.einsum("oc,bc...->bo...", p[f"{name}.weight"].flatten(1), x)
    bias = p.get(f"{name}.bias")
    return y if bias is None else y + bias.reshape(1, -1, *[1] * (x.ndim - 2))


def conv3x3(
    p: Parameters, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Apply the 3 x 3 convolution `name` as a sum over its nine taps."""
    weight, (height, width) = p[f"{name}.weight"], x.shape[2:]
    padded, total = F.pad(x, [dilation] * 4), torch.zeros((), dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            rows = slice(i * dilation, i * dilation + height, stride)
            columns = slice(j * dilation, j * dilation + width, stride)
            tap = weight[:, :, i, j].unflatten(0, (groups, -1))
            window = padded[:, :, rows, columns].unflatten(1, (groups, -1))
            total = total + torch.einsum("goc,bgchw->bgohw", tap, window).flatten(1, 2)
    return total + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else total


def statistics(x: Tensor) -> Statistics:
    axes = [0, *range(2, x.ndim)]
    return x.mean(axes), x.var(axes, unbiased=False)


class BatchNorms:
    """Batch norm with batch statistics, or in eval mode with the buffers of the module."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.seen = module, dict[str, Tensor]()
        self.buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def __call__(self, p: Parameters, name: str, x: Tensor) -> Tensor:
        self.seen[name] = x.detach()
        frozen = self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"]
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, variance = statistics(x) if self.module.training else frozen
        unit = (x - mean.reshape(shape)) / (variance.reshape(shape) + 1e-5).sqrt()
        return unit * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(shape)

    def assert_running(self) -> None:
        """Assert that the buffers have moved by a factor of 0.1 to the statistics of the inputs."""
        now: Mapping[str, Tensor] = dict(self.module.named_buffers())
        assert {f"{name}.running_mean" for name in self.seen} == {
            n for n in now if n.endswith("running_mean")
        }
        for name, x in self.seen.items():
            mean, variance = statistics(x)
            count = x.numel() / x.shape[1]
            for which, value in (("mean", mean), ("var", variance * count / (count - 1))):
                before = self.buffers[f"{name}.running_{which}"]
                assert_close(f"{name}.{which}", now[f"{name}.running_{which}"], 0.9 * before + 0.1 * value)
            assert now[f"{name}.num_batches_tracked"] == self.buffers[f"{name}.num_batches_tracked"] + 1


def resize(x: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """Interpolate linearly along one axis after the other, by a matrix of the weights of two neighbors."""
    for axis, new in enumerate(size, start=2):
        old = x.shape[axis]
        weights = torch.zeros(new, old, dtype=x.dtype)
        for i in range(new):
            if align_corners:
                position = i * (old - 1) / (new - 1) if new > 1 else 0.0
            else:
                position = max((i + 0.5) * old / new - 0.5, 0.0)
            low = min(math.floor(position), old - 1)
            weights[i, low] += 1 - (position - low)
            weights[i, min(low + 1, old - 1)] += position - low
        x = torch.tensordot(x, weights, dims=([axis], [1])).movedim(-1, axis)
    return x


def max_pool(x: Tensor) -> Tensor:
    """Max-pool 3 x 3 with stride 2; windows start inside the map and are cropped at its end."""
    height, width = x.shape[2:]
    rows = [
        torch.stack(
            [x[:, :, i : i + 3, j : j + 3].flatten(2).max(-1).values for j in range(0, max(width - 1, 1), 2)],
            -1,
        )
        for i in range(0, max(height - 1, 1), 2)
    ]
    return torch.stack(rows, -2)
