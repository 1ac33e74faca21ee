"""Operations of attention: which ones keep logits a known product, and weights weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.narrow_attention import OPERATOR

if TYPE_CHECKING:
    from saccade.recording.positions import Route

SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
MATMUL = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__}
EINSUM = {torch.einsum}
PASS = {
    *(F.dropout, torch.dropout, Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double),
    *(Tensor.type, Tensor.type_as, Tensor.contiguous, Tensor.clone, torch.clone),
}
#: Operations that change the shape alone, not the order of the values.
ORDERED = {
    *(Tensor.view, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.unflatten),
    *(torch.unflatten, Tensor.unsqueeze, torch.unsqueeze, Tensor.squeeze, torch.squeeze, Tensor.view_as),
    Tensor.reshape_as,
}
RESHAPE = ORDERED | {
    *(Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.swapaxes, Tensor.expand),
}
SCALE = {Tensor.mul, Tensor.mul_, torch.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
#: Operations after which weights are still weights. A linear layer mixes heads ("talking heads").
FOLLOWED = PASS | RESHAPE | SCALE | {F.linear}
DIVIDE = {Tensor.div, Tensor.div_, torch.div, Tensor.__truediv__, Tensor.__itruediv__}
ADD = {Tensor.add, Tensor.add_, torch.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
FILL = {Tensor.masked_fill, Tensor.masked_fill_, torch.masked_fill}
#: Operations that are a whole attention.
FUSED = {F.scaled_dot_product_attention, F.multi_head_attention_forward, OPERATOR}
#: Operations that begin an attention. Others matter once they have begun.
STARTS = SOFTMAX | MATMUL | EINSUM | FUSED


@dataclass(frozen=True)
class Logits:
    """A product of queries (..., Nq, D) and keys (..., Nk, D), scaled and biased.

    `sets` says whether queries and keys are sets of tokens without places.
    """

    queries: Tensor
    keys: Tensor
    scale: float = 1.0
    bias: Tensor | None = None
    sets: tuple[bool, ...] = (False, False)

    def weights(self) -> Tensor:
        """Return the softmax over keys, (..., Nq, Nk)."""
        logits = self.scale * self.queries @ self.keys.transpose(-2, -1)
        return (logits if self.bias is None else logits + self.bias).softmax(-1)


@dataclass(eq=False)
class Weights:
    """The result of a softmax over keys, (..., Nq, Nk), with the logits if these are a known product.

    `routes` say from which places of a feature map queries and keys come, if this is known, and `sets`
    whether they are sets of tokens without places.
    """

    weights: Tensor
    logits: Logits | None
    sets: tuple[bool, ...]
    routes: tuple[Route, ...] = ()
    is_published: bool = False


@dataclass(eq=False)
class Keys:
    """The softmax of keys over their places, (..., N, D), with which linear attention begins."""

    keys: Tensor

    def are(self, x: Tensor) -> bool:
        """Return whether x has the shape of the keys, transposed or not."""
        return x.shape in (self.keys.shape, self.keys.mT.shape)


@dataclass(eq=False)
class Contexts:
    """The sums of the values, weighted by each channel of such keys, (..., D, E)."""

    keys: Tensor

    def fit(self, x: Tensor) -> bool:
        """Return whether x has the shape of queries of the same images and heads, not that of a parameter."""
        return x.shape[:-2] == self.keys.shape[:-2] and self.keys.shape[-1] in x.shape[-2:]


def change_logits(
    tag: Logits, logits: Tensor, func: Any, args: Any, kwargs: Any, output: Any
) -> Logits | None:
    """Return the tag of logits after an operation, or None if they are no known product any more.

    Args:
        tag: The tag.
        logits: The tensor that has it, one of the arguments.
        func: The operation.
        args: Its positional arguments.
        kwargs: Its other arguments.
        output: Its result.
    """
    other = next((x for x in (*args, *kwargs.values()) if x is not logits), None)
    if func in PASS:
        return tag
    if func in SCALE or (func in DIVIDE and args[0] is logits):
        is_number = isinstance(other, Tensor) and other.numel() == 1 and not other.is_meta
        number = other.item() if isinstance(other, Tensor) and is_number else other
        if isinstance(number, Tensor) and number.shape[-2:] == (1, 1) and number.ndim <= tag.queries.ndim:
            factor = number.detach() if func in SCALE else 1 / number.detach()
            bias = None if tag.bias is None else factor * tag.bias
            return replace(tag, queries=factor * tag.queries, bias=bias)
        if not isinstance(number, int | float):
            return None
        scale = number if func in SCALE else 1 / number
        bias = None if tag.bias is None else scale * tag.bias
        return replace(tag, scale=scale * tag.scale, bias=bias)
    if func in ADD and isinstance(other, Tensor):
        return replace(tag, bias=other if tag.bias is None else tag.bias + other)
    if func in FILL and isinstance(other, Tensor):
        value = args[2] if len(args) > 2 else kwargs["value"]
        hidden = torch.zeros(other.shape, dtype=tag.queries.dtype, device=other.device)
        hidden = hidden.masked_fill(other, float(value))
        return replace(tag, bias=hidden if tag.bias is None else tag.bias + hidden)
    if func in ORDERED and output.shape[-2:] == logits.shape[-2:]:
        return _group(tag, logits.shape, output.shape[:-2])
    return None


def _group(tag: Logits, shape: torch.Size, groups: torch.Size) -> Logits | None:
    """Return the tag of logits after a change of their leading axes, such as those of images and windows."""
    if not tag.queries.shape[:-2] == tag.keys.shape[:-2] == shape[:-2]:
        return None
    queries, keys = (x.reshape(*groups, *x.shape[-2:]) for x in (tag.queries, tag.keys))
    bias = None if tag.bias is None else tag.bias.expand(shape).reshape(*groups, *shape[-2:])
    return replace(tag, queries=queries, keys=keys, bias=bias)
