"""Gates and their statistics as operators of PyTorch: native loops on the CPU, Triton kernels on a GPU.

Maps are (B, C, P), of P positions; on the CPU they are contiguous. A backward pass keeps x and small maps
alone. Where the gradient is differentiated again, it is the formula in plain operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library

from saccade.ops import gate_loops
from saccade.ops.loops import run_loop

_BLOCK = 4096  # positions of a block: a row of each map that a loop touches stays in the cache


@library.custom_op("saccade::place_statistics", mutates_args=(), device_types="cpu")
def place_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the positions of x, (B, C) each."""
    rows, integers = x.flatten(0, 1), torch.int32 if x.dtype == torch.float32 else torch.int64
    mean, maximum = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    index = torch.empty(x.shape[:2], dtype=torch.int64)
    run_loop(
        gate_loops.place_statistics,
        len(rows),
        integers,
        torch.iinfo(integers).max,
        *(rows, rows.view(integers), mean.flatten(), maximum.flatten(), index.flatten()),
        reassociate=True,
    )
    return mean, maximum, index


@library.custom_op("saccade::place_statistics_backward", mutates_args=("d_x",), device_types="cpu")
def place_statistics_backward(d_mean: Tensor, d_maximum: Tensor, index: Tensor, d_x: Tensor) -> None:
    """Add the gradient of x to d_x. d_mean is divided by P."""
    small = (d.contiguous().flatten() for d in (d_mean, d_maximum, index))
    run_loop(gate_loops.place_statistics_backward, index.numel(), *small, d_x.flatten(0, 1))


@library.custom_op("saccade::channel_statistics", mutates_args=(), device_types="cpu")
def channel_statistics(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the channels of scale * x, (B, P) each."""
    mean, maximum = torch.empty_like(x[:, 0]), torch.empty_like(x[:, 0])
    index = torch.empty_like(mean, dtype=torch.int32)
    units, block = _blocks(x)
    run_loop(gate_loops.channel_statistics, units, block, x, scale.contiguous(), mean, maximum, index)
    return mean, maximum, index


@library.custom_op("saccade::channel_statistics_backward", mutates_args=("d_x",), device_types="cpu")
def channel_statistics_backward(
    d_mean: Tensor, d_maximum: Tensor, index: Tensor, x: Tensor, scale: Tensor, d_x: Tensor
) -> Tensor:
    """Add the gradient of x to d_x, and return that of the scale, (B, C). d_mean is divided by C."""
    units, block = _blocks(x)
    d_scale = x.new_empty(len(x), units // len(x), x.shape[1])
    small = (d.contiguous() for d in (scale, d_mean, d_maximum, index))
    run_loop(gate_loops.channel_statistics_backward, units, block, x, *small, d_x, d_scale, reassociate=True)
    return _sum_of_blocks(d_scale)


@library.custom_op("saccade::gate", mutates_args=(), device_types="cpu")
def gate(x: Tensor, scale: Tensor, place: Tensor) -> Tensor:
    """Return y = place * (scale * x), for weights of the channels (B, C) and of the positions (B, P)."""
    y = torch.empty_like(x)
    run_loop(gate_loops.gate, x.shape[0] * x.shape[1], x, scale.contiguous(), place.contiguous(), y)
    return y


@library.custom_op("saccade::gate_backward", mutates_args=(), device_types="cpu")
def gate_backward(d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the scale and of the weights of the positions."""
    units, block = _blocks(x)
    d_x, d_place = torch.empty_like(x), torch.empty_like(x[:, 0])
    d_scale = x.new_empty(len(x), units // len(x), x.shape[1])
    given = (d.contiguous() for d in (d_y, x, scale, place))
    run_loop(gate_loops.gate_backward, units, block, *given, d_x, d_scale, d_place, reassociate=True)
    return d_x, _sum_of_blocks(d_scale), d_place


@library.custom_op("saccade::scale", mutates_args=(), device_types=("cpu", "cuda"))
def scale(x: Tensor, weight: Tensor) -> Tensor:
    """Return weight * x, for weights of the channels (B, C)."""
    return x * weight.unsqueeze(2)


@library.custom_op("saccade::scale_backward", mutates_args=(), device_types="cpu")
def scale_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weights."""
    x = x.contiguous()
    d_x, d_weight = torch.empty_like(x), x.new_empty(x.shape[:2])
    rows = (t.flatten(0, 1) for t in (d_y.contiguous(), x, weight.contiguous(), d_x, d_weight))
    run_loop(gate_loops.scale_backward, d_weight.numel(), *rows, reassociate=True)
    return d_x, d_weight


def _blocks(x: Tensor) -> tuple[int, int]:
    """Return the number of blocks of positions in all images, and the positions of a block."""
    number = -(-x.shape[2] // _BLOCK)
    block = -(-x.shape[2] // number)
    return len(x) * -(-x.shape[2] // block), block


def _sum_of_blocks(d_scale: Tensor) -> Tensor:
    return d_scale.sum(1) if d_scale.shape[1] > 1 else d_scale.squeeze(1)


# Shapes alone, for tracing.
place_statistics.register_fake(lambda x: _statistics(x, x.shape[:2], torch.int64))
place_statistics_backward.register_fake(lambda *_: None)
channel_statistics.register_fake(lambda x, _: _statistics(x, (x.shape[0], x.shape[2]), torch.int32))
channel_statistics_backward.register_fake(lambda *inputs: inputs[4].new_empty(inputs[4].shape))
gate.register_fake(lambda x, *_: torch.empty_like(x))
gate_backward.register_fake(lambda _, *inputs: _gradients(*inputs))
scale.register_fake(lambda x, weight: x * weight.unsqueeze(2))
scale_backward.register_fake(lambda _, *inputs: _gradients(*inputs))


def _statistics(x: Tensor, shape: Sequence[int], index: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(shape), x.new_empty(shape), x.new_empty(shape, dtype=index)


def _gradients(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    return (torch.empty_like(x), *(t.new_empty(t.shape) for t in weights))


# Without `setup_context`: PyTorch would bind the arguments at each call, which takes as long as a small map.


class PlaceMean(torch.autograd.Function):
    """Mean over the positions, and x, as in `PlaceStatistics`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.positions = x.shape[2]
        return x.mean(2), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        d_mean, d_x = gradients
        each = (d_mean / ctx.positions).unsqueeze(2)
        return d_x + each if torch.is_grad_enabled() else d_x.add_(each)


class PlaceStatistics(torch.autograd.Function):
    """Mean, maximum, its index, and x: where x is used further, as a map that nothing else uses.

    The gradient of that x arrives first, and those of the statistics are added to it in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        output = (*place_statistics(x), x.view_as(x))
        PlaceStatistics.save(ctx, (x,), output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.shape = inputs[0].shape
        ctx.save_for_backward(output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        d_mean, d_maximum, _, *further = gradients
        (index,), d_mean = ctx.saved_tensors, d_mean / ctx.shape[2]
        d_x = further[0] if further else d_mean.new_zeros(ctx.shape)
        if torch.is_grad_enabled():
            d_x = (d_x + d_mean[..., None]).scatter_add(2, index[..., None], d_maximum[..., None])
        else:
            place_statistics_backward(d_mean, d_maximum, index, d_x)
        return d_x


class ChannelStatistics(torch.autograd.Function):
    """Mean, maximum, its index, and x, as in `PlaceStatistics`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        output = (*channel_statistics(x, scale), x.view_as(x))
        ChannelStatistics.save(ctx, (x, scale), output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        d_mean, d_maximum, _, *further = gradients
        x, scale, index = ctx.saved_tensors
        d_mean = d_mean / x.shape[1]
        d_x = further[0] if further else torch.zeros_like(x)
        if torch.is_grad_enabled():
            d_scaled = d_mean[:, None].expand_as(x)
            d_scaled = d_scaled.scatter_add(1, index[:, None].long(), d_maximum[:, None])
            return d_x + d_scaled * scale[..., None], (d_scaled * x).sum(2)
        return d_x, channel_statistics_backward(d_mean, d_maximum, index, x, scale, d_x)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    ctx.save_for_backward(*inputs)


def _gate_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
    x, scale, place = ctx.saved_tensors
    if torch.is_grad_enabled():
        d_scaled = d_y * place[:, None]
        d_scale, d_place = (d_scaled * x).sum(2), (d_y * (scale[..., None] * x)).sum(1)
        return d_scaled * scale[..., None], d_scale, d_place
    gradients: tuple[Tensor, ...] = gate_backward(d_y, x, scale, place)
    return gradients


def _scale_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
    x, weight = ctx.saved_tensors
    if torch.is_grad_enabled():
        return d_y * weight[..., None], (d_y * x).sum(2)
    gradients: tuple[Tensor, ...] = scale_backward(d_y, x, weight)
    return gradients


gate.register_autograd(_gate_gradients, setup_context=_save)
scale.register_autograd(_scale_gradients, setup_context=_save)
place_statistics.register_autograd(PlaceStatistics.backward, setup_context=PlaceStatistics.save)
channel_statistics.register_autograd(ChannelStatistics.backward, setup_context=ChannelStatistics.save)


def register_triton(device_type: str) -> None:
    """Let the operators run in Triton kernels for tensors of a device type."""
    for name, operator in _OPERATORS.items():
        operator.register_kernel(device_type)(_in_triton(name))


def _in_triton(name: str) -> Callable[..., Any]:
    def run(*tensors: Tensor) -> Any:
        from saccade.ops import triton_gates  # imports Triton, which takes long

        return getattr(triton_gates, name)(*tensors)

    return run


_OPERATORS: dict[str, Any] = {
    "place_statistics": place_statistics,
    "place_statistics_backward": place_statistics_backward,
    "channel_statistics": channel_statistics,
    "channel_statistics_backward": channel_statistics_backward,
    "gate": gate,
    "gate_backward": gate_backward,
    "scale_backward": scale_backward,
}
register_triton("cuda")
