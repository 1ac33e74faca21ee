"""Softmax attention of heads with few channels, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional as F

from saccade._torch import is_transformed
from saccade.ops.eager import is_compiling, is_eager

#: Channels of a head up to which this is faster, as measured for 4 to 16 channels and 64 to 3136 tokens.
_WIDEST = 8

_WEIGHTS = 1 << 20  # weights that a thread holds at a time: they stay in the cache
_TYPES = (torch.float32, torch.float64)
_ROWS = 64  # the least queries of a chunk: products of few rows read keys and values too often


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale * q k^T) v for each head, without a matrix of all weights.

    This is the fused attention of torch. On the CPU, its products with few columns use a small part of each
    core. Up to 8 channels, this function computes the transposed products there, of few rows, which is
    faster. In half precision, and for an export or a trace, it is that of torch.

    Args:
        query: Queries, (B, heads, Nq, D).
        key: Keys, (B, heads, Nk, D).
        value: Values, (B, heads, Nk, D).
        scale: Factor of the logits; by default, D^-0.5.

    Returns:
        Weighted means of the values, (B, heads, Nq, D).

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
        >>> expected = (0.5 * q @ k.mT).softmax(-1) @ v
        >>> torch.allclose(attention(q, k, v), expected, atol=1e-5)
        True
    """
    if _is_narrow(query, key, value):
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        result: Tensor = narrow_attention(query, key, value, scale)
        return result
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def _is_narrow(query: Tensor, key: Tensor, value: Tensor) -> bool:
    inputs = (query, key, value)
    return (
        all(type(x) is Tensor and x.dtype in _TYPES and x.device.type == "cpu" for x in inputs)
        and query.ndim == 4
        and key.shape == value.shape == (*query.shape[:2], key.shape[-2], query.shape[-1])
        and query.shape[-1] <= _WIDEST
        and all(x.numel() for x in inputs)
        and (is_compiling() or (is_eager() and not is_transformed()))
        and not torch.is_autocast_enabled("cpu")
    )


@library.custom_op("saccade::narrow_attention", mutates_args=(), device_types="cpu")
def narrow_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v for each head, (B, heads, Nq, D)."""
    q, k, v = (x.flatten(0, 1) for x in (query * scale, key, value))
    output = torch.empty_like(q.mT, memory_format=torch.contiguous_format)
    values = v.mT.contiguous()
    for heads, rows, (weights,) in _chunks(q, k, 1):
        _weights(q[heads, rows], k[heads], weights)
        output[heads, :, rows] = values[heads] @ weights.mT
    result: Tensor = output.unflatten(0, query.shape[:2]).mT
    return result


@library.custom_op("saccade::narrow_attention_backward", mutates_args=(), device_types="cpu")
def narrow_attention_backward(
    d_y: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    q, k, v, d_y, y = (x.flatten(0, 1) for x in (query * scale, key, value, d_y, output))
    minus_mean = (d_y * y).sum(-1, keepdim=True).neg_()
    queries, keys, d_outputs = (x.mT.contiguous() for x in (q, k, d_y))
    d_q, d_k, d_v = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(keys)
    for heads, rows, (weights, d_logits) in _chunks(q, k, 2):
        _weights(q[heads, rows], k[heads], weights)
        d_v[heads].baddbmm_(d_outputs[heads, :, rows], weights)
        torch.baddbmm(minus_mean[heads, rows], d_y[heads, rows], v[heads].mT, out=d_logits)
        d_logits.mul_(weights)
        d_q[heads, :, rows] = keys[heads] @ d_logits.mT
        d_k[heads].baddbmm_(queries[heads, :, rows], d_logits)
    d_q.mul_(scale)
    shape = query.shape[:2]
    return d_q.unflatten(0, shape).mT, d_k.unflatten(0, shape).mT, d_v.unflatten(0, shape).mT


def _chunks(query: Tensor, key: Tensor, copies: int) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """Yield heads, their queries, and memory for weights of these, as many times as is asked for.

    Each thread works on heads of its own.
    """
    (total, length, _), keys = query.shape, key.shape[1]
    rows = min(length, max(_ROWS, _WEIGHTS // keys))
    heads = min(total, max(1, round(_WEIGHTS / (rows * keys))) * torch.get_num_threads())
    memory = query.new_empty(copies, heads * rows * keys)
    for first in range(0, total, heads):
        for row in range(0, length, rows):
            shape = min(heads, total - first), min(rows, length - row), keys
            parts = [part[: shape[0] * shape[1] * keys].view(shape) for part in memory]
            yield slice(first, first + heads), slice(row, row + rows), parts


def _weights(query: Tensor, key: Tensor, out: Tensor) -> None:
    torch.bmm(query, key.mT, out=out)
    torch.softmax(out, -1, out=out)


def _empty_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x.mT, memory_format=torch.contiguous_format).mT for x in tensors)


narrow_attention.register_fake(lambda query, *_: _empty_like(query)[0])
narrow_attention_backward.register_fake(lambda _, *inputs: _empty_like(*inputs[:3]))


#: What a mode that intercepts functions sees of a call of `narrow_attention`.
OPERATOR = torch.ops.saccade.narrow_attention.default


def as_fused(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return a call of `OPERATOR` as one of the fused attention of torch, and any other call as it is."""
    if func is OPERATOR:
        return F.scaled_dot_product_attention, args[:3], {"scale": args[3]}
    return func, args, kwargs


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output)


def _gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, output = ctx.saved_tensors
    if torch.is_grad_enabled():  # the formula, which may be differentiated again
        weights = (ctx.scale * query @ key.mT).softmax(-1)
        d_weights = d_y @ value.mT
        d_logits = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * ctx.scale
        return d_logits @ key, d_logits.mT @ query, weights.mT @ d_y, None
    return *narrow_attention_backward(d_y, query, key, value, output, ctx.scale), None


narrow_attention.register_autograd(_gradients, setup_context=_save)
