"""Operations of attention: which ones keep logits a known product, and weights weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
MATMUL = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__}
EINSUM = {torch.einsum}
PASS = {
    *(F.dropout, torch.dropout, Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double),
    *(Tensor.type, Tensor.type_as, Tensor.contiguous, Tensor.clone, torch.clone),
}
RESHAPE = {
    *(Tensor.view, Tensor.reshape, torch.reshape, Tensor.transpose, torch.transpose, Tensor.permute),
    *(torch.permute, Tensor.flatten, torch.flatten, Tensor.unflatten, Tensor.unsqueeze, Tensor.squeeze),
    *(torch.unsqueeze, torch.squeeze, Tensor.swapaxes, Tensor.expand, Tensor.view_as, Tensor.reshape_as),
}
SCALE = {Tensor.mul, Tensor.mul_, torch.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
#: Operations after which weights are still weights. A linear layer mixes heads ("talking heads").
FOLLOWED = PASS | RESHAPE | SCALE | {F.linear}
DIVIDE = {Tensor.div, Tensor.div_, torch.div, Tensor.__truediv__, Tensor.__itruediv__}
ADD = {Tensor.add, Tensor.add_, torch.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
FILL = {Tensor.masked_fill, Tensor.masked_fill_, torch.masked_fill}
#: Operations that begin an attention. Others matter once they have begun.
STARTS = SOFTMAX | MATMUL | EINSUM | {F.scaled_dot_product_attention, F.multi_head_attention_forward}


@dataclass(frozen=True)
class Logits:
    """A product of queries (..., Nq, D) and keys (..., Nk, D), scaled and biased."""

    queries: Tensor
    keys: Tensor
    scale: float = 1.0
    bias: Tensor | None = None


@dataclass(eq=False)
class Weights:
    """The result of a softmax over keys, (..., Nq, Nk), with the logits if these are a known product."""

    weights: Tensor
    logits: Logits | None
    is_published: bool = False


def change_logits(tag: Logits, logits: Tensor, func: Any, args: Any, kwargs: Any) -> Logits | None:
    """Return the tag of logits after an operation, or None if they are no known product any more.

    Args:
        tag: The tag.
        logits: The tensor that has it, one of the arguments.
        func: The operation.
        args: Its positional arguments.
        kwargs: Its other arguments.
    """
    other = next((x for x in (*args, *kwargs.values()) if x is not logits), None)
    if func in PASS:
        return tag
    if func in SCALE or (func in DIVIDE and args[0] is logits):
        is_number = isinstance(other, Tensor) and other.numel() == 1 and not other.is_meta
        number = other.item() if isinstance(other, Tensor) and is_number else other
        if not isinstance(number, int | float):
            return None
        factor = number if func in SCALE else 1 / number
        bias = None if tag.bias is None else factor * tag.bias
        return replace(tag, scale=factor * tag.scale, bias=bias)
    if func in ADD and isinstance(other, Tensor):
        return replace(tag, bias=other if tag.bias is None else tag.bias + other)
    if func in FILL and isinstance(other, Tensor):
        value = args[2] if len(args) > 2 else kwargs["value"]
        hidden = torch.zeros(other.shape, dtype=tag.queries.dtype, device=other.device)
        hidden = hidden.masked_fill(other, float(value))
        return replace(tag, bias=hidden if tag.bias is None else tag.bias + hidden)
    return None
