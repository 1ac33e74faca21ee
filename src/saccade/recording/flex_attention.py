"""Attention of `flex_attention`, whose scores a function of the user changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saccade._torch import index_by_tensors, is_default_of_flex_attention
from saccade.recording.operations import Logits

_MOST_SCORES = 1 << 26  # larger scores that a function changes are not computed


class FlexCall(NamedTuple):
    """The arguments of the operator, in its order. `block_mask` ends with the function that masks."""

    query: Tensor
    key: Tensor
    value: Tensor
    score_mod: Callable[..., Tensor]
    block_mask: tuple[Any, ...]
    scale: float

    def logits(self, sets: tuple[bool, ...]) -> Logits:
        """Return the logits. All that the functions do to the scores is a bias.

        Args:
            sets: Whether queries and keys are sets of tokens without places.

        Raises:
            ValueError: If scores that a function changes are too large to be computed.
        """
        query, key = self.query.detach(), self.key.detach()
        key = key.expand(len(query), -1, -1, -1).repeat_interleave(query.shape[1] // key.shape[1], 1)
        shape = (*query.shape[:3], key.shape[2])
        bias = None
        if not is_default_of_flex_attention(self.score_mod):
            _check_size(shape)
            precise = torch.promote_types(query.dtype, torch.float32)
            scores = self.scale * query.to(precise) @ key.to(precise).mT
            bias = _of_all(self.score_mod, (scores,), shape, query.device) - scores
        mask_mod = self.block_mask[-1]
        if not is_default_of_flex_attention(mask_mod):
            blocks = self.block_mask[2].shape  # their numbers: (B or 1, H or 1, ...)
            shape = (*blocks[:2], *shape[2:])
            _check_size(shape)
            visible = _of_all(mask_mod, (), shape, query.device)
            bias = torch.zeros_like(visible, dtype=query.dtype) if bias is None else bias
            bias = torch.where(visible, bias, -torch.inf)
        return Logits(query, key, self.scale, bias, sets)


def _check_size(shape: tuple[int, ...]) -> None:
    if torch.Size(shape).numel() > _MOST_SCORES:
        raise ValueError(f"scores of the shape {shape} are too large")


def _of_all(
    function: Callable[..., Tensor], scores: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return a function of single scores, if any, and of their four indices for all scores (B, H, Nq, Nk)."""
    for axis in reversed(range(4)):
        dims = (0 if other == axis else None for other in range(4))
        function = torch.vmap(function, in_dims=(*(0 for _ in scores), *dims))
    with index_by_tensors():
        return function(*scores, *(torch.arange(size, device=device) for size in shape))
