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


@library.custom_op("saccade::channel_statistics", mutates_args=(), device_types="cpu")
def channel_statistics(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, maximum and its index over the channels of scale * x, (B, P) each."""
    mean, maximum = torch.empty_like(x[:, 0]), torch.empty_like(x[:, 0])
    index = torch.empty_like(mean, dtype=torch.int32)
    units, block = _blocks(x)
    run_loop(gate_loops.channel_statistics, units, block, x, scale.contiguous(), mean, maximum, index)
    return mean, maximum, index


@library.custom_op("saccade::channel_statistics_backward", mutates_args=(), device_types="cpu")
def channel_statistics_backward(d_mean: Tensor, d_maximum: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the scale, (B, C). d_mean is divided by C."""
    units, block = _blocks(x)
    d_scale = x.new_empty(len(x), units // len(x), x.shape[1])
    small = (d.contiguous() for d in (d_mean, d_maximum, index))
    loop = gate_loops.channel_statistics_backward
    run_loop(loop, units, block, index.dtype, x, *small, d_scale, reassociate=True)
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


@library.custom_op("saccade::weights_backward", mutates_args=(), device_types="cpu")
def weights_backward(d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights of `gate` alone. Without `place`, the second tensor is empty."""
    if place is None:
        d_rows = x.new_empty(x.shape[:2])
        rows = (t.flatten(0, 1) for t in (d_y.contiguous(), x, d_rows))
        run_loop(gate_loops.row_products, d_rows.numel(), *rows, reassociate=True)
        return d_rows, x.new_empty(0)
    units, block = _blocks(x)
    d_place, d_scale = torch.empty_like(x[:, 0]), x.new_empty(len(x), units // len(x), x.shape[1])
    given = (d.contiguous() for d in (d_y, x, scale, place))
    run_loop(gate_loops.weights_backward, units, block, *given, d_scale, d_place, reassociate=True)
    return _sum_of_blocks(d_scale), d_place


@library.custom_op("saccade::map_gradient", mutates_args=(), device_types="cpu")
def map_gradient(
    d_y: Tensor,
    scale: Tensor | None,
    place: Tensor | None,
    d_row_mean: Tensor | None,
    d_row_maximum: Tensor | None,
    row_index: Tensor | None,
    d_mean: Tensor | None,
    d_maximum: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """Return the gradient of x from that of a gate of it, and those of its statistics.

    The gate is place * (scale * x). The statistics with names of rows are those of x over positions, (B, C);
    the others are those of scale * x over channels, (B, P). What is None has no part in it. The gradients of
    means are divided by the number of values.
    """
    d_y, (channels, positions) = d_y.contiguous(), d_y.shape[1:]
    d_x = torch.empty_like(d_y)

    def given(tensor: Tensor | None, length: int, default: float, dtype: torch.dtype) -> Tensor:
        shape = len(d_y), length
        return d_y.new_full(shape, default, dtype=dtype) if tensor is None else tensor.contiguous()

    rows = [
        given(tensor, channels, default, dtype)
        for tensor, default, dtype in (
            (scale, 1, d_y.dtype),
            (d_row_mean, 0, d_y.dtype),
            (d_row_maximum, 0, d_y.dtype),
            (row_index, 0, torch.int64),
        )
    ]
    if place is None and d_mean is None:
        run_loop(gate_loops.row_gradient, d_y.shape[0] * channels, d_y, *rows, d_x)
        return d_x
    places = [
        given(tensor, positions, default, dtype)
        for tensor, default, dtype in (
            (place, 1, d_y.dtype),
            (d_mean, 0, d_y.dtype),
            (d_maximum, 0, d_y.dtype),
            (index, -1, torch.int32),
        )
    ]
    loop = gate_loops.map_gradient
    run_loop(loop, d_y.shape[0] * channels, torch.int32, d_y, *rows, *places, d_x)
    return d_x


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
channel_statistics.register_fake(lambda x, _: _statistics(x, (x.shape[0], x.shape[2]), torch.int32))
channel_statistics_backward.register_fake(lambda *inputs: inputs[3].new_empty(inputs[3].shape[:2]))
gate.register_fake(lambda x, *_: torch.empty_like(x))
gate_backward.register_fake(lambda _, *inputs: _gradients(*inputs))
weights_backward.register_fake(lambda _, x, *weights: _weight_gradients(x, *weights))
map_gradient.register_fake(lambda d_y, *_: torch.empty_like(d_y, memory_format=torch.contiguous_format))
scale.register_fake(lambda x, weight: x * weight.unsqueeze(2))
scale_backward.register_fake(lambda _, *inputs: _gradients(*inputs))


def _statistics(x: Tensor, shape: Sequence[int], index: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(shape), x.new_empty(shape), x.new_empty(shape, dtype=index)


def _gradients(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    return (torch.empty_like(x), *(t.new_empty(t.shape) for t in weights))


def _weight_gradients(x: Tensor, scale: Tensor, place: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(scale.shape), x.new_empty(0 if place is None else place.shape)


# The gradients as formulas, which may be differentiated again.


def save_places(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
    """Save what the gradient of the statistics over positions needs."""
    ctx.shape = inputs[0].shape
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(output[2])


def gradient_of_places(ctx: Any, d_mean: Tensor, d_maximum: Tensor, _: Tensor) -> Tensor:
    """Return the gradient of x from those of its statistics over positions."""
    (index,), d_mean = ctx.saved_tensors, d_mean / ctx.shape[2]
    return d_mean[..., None].expand(ctx.shape).scatter_add(2, index[..., None], d_maximum[..., None])


def save_channels(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    """Save what the gradients of the statistics over channels need."""
    ctx.save_for_backward(*inputs, output[2])
    ctx.mark_non_differentiable(output[2])


def gradients_of_channels(
    ctx: Any, d_mean: Tensor, d_maximum: Tensor, _: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of x and of its scale from those of the statistics of scale * x over channels."""
    x, scale, index = ctx.saved_tensors
    d_scaled = (d_mean / x.shape[1])[:, None].expand_as(x)
    d_scaled = d_scaled.scatter_add(1, index[:, None].long(), d_maximum[:, None])
    d_scale = (d_scaled * x).sum(2) if ctx.needs_input_grad[1] else None
    return d_scaled * scale[..., None], d_scale


def gradients_of_gate(
    d_y: Tensor, x: Tensor, scale: Tensor, place: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, and of the weights of channels and of positions."""
    d_scaled = d_y if place is None else d_y * place[:, None]
    d_place = None if place is None else (d_y * (scale[..., None] * x)).sum(1)
    return d_scaled * scale[..., None], (d_scaled * x).sum(2), d_place


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    ctx.save_for_backward(*inputs)


def _gate_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        return gradients_of_gate(d_y, *ctx.saved_tensors)
    gradients: tuple[Tensor, ...] = gate_backward(d_y, *ctx.saved_tensors)
    return gradients


def _scale_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled():
        x, weight = ctx.saved_tensors
        return gradients_of_gate(d_y, x, weight, None)[:2]
    gradients: tuple[Tensor, ...] = scale_backward(d_y, *ctx.saved_tensors)
    return gradients


gate.register_autograd(_gate_gradients, setup_context=_save)
scale.register_autograd(_scale_gradients, setup_context=_save)
place_statistics.register_autograd(gradient_of_places, setup_context=save_places)
channel_statistics.register_autograd(gradients_of_channels, setup_context=save_channels)


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
    "channel_statistics": channel_statistics,
    "channel_statistics_backward": channel_statistics_backward,
    "gate": gate,
    "gate_backward": gate_backward,
    "map_gradient": map_gradient,
    "weights_backward": weights_backward,
    "scale_backward": scale_backward,
}
register_triton("cuda")
