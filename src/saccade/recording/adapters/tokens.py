"""The layout of tokens: which of them have no place in the image, and the grid of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from saccade._torch import FEATURE_LAYERS
from saccade.maps import ClassTokenMap, PairwiseMap, TokenMap
from saccade.model_state import Handle
from saccade.recording.adapters.token_sets import TokenSets

_MORE_TOKENS = ("register_tokens", "distillation_token", "dist_token")  # (1, number of tokens, channels)
_STEPS = (1, 2, 4, 8, 16, 32)
_LAST_TOKENS = "detection_tokens"  # of YOLOS: they follow those of the image
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


class FeatureShapes(dict[int, tuple[int, ...]]):
    """The shapes of the feature maps that a model has computed so far, by their number of positions.

    They give the grid of the tokens for images of any size, square or not.

    Attributes:
        captured: Modules whose attention was captured by its operations when they ran last.
        sets: Tensors whose tokens have no places, whatever their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.captured: set[nn.Module] = set()
        self.sets = TokenSets()

    def register(self, modules: Iterable[nn.Module]) -> Iterator[Handle]:
        """Register hooks that keep the shapes of the feature maps that modules return."""
        layers = (module for module in modules if isinstance(module, FEATURE_LAYERS))
        return (layer.register_forward_hook(lambda *call: self.keep(call[-1])) for layer in layers)

    def keep(self, output: Any) -> None:
        """Keep the shape of the output of a layer."""
        output = output[0] if isinstance(output, tuple) else output  # a pooling can also return indices
        shape, count = tuple(output.shape[2:]), math.prod(output.shape[2:])
        if count > 1 and (len(shape) > 1 or count not in self):  # a sequence may be a flattened image
            self[count] = shape

    def holds(self, grid: tuple[int, ...]) -> bool:
        """Return whether a grid is that of a feature map, or that of one halved several times."""
        reduced = {tuple(-(-n // step) for n in shape) for shape in self.values() for step in _STEPS}
        return len(grid) > 1 and tuple(grid) in reduced

    def grid(self, count: int) -> tuple[int, ...]:
        """Return the grid of `count` places: that of a feature map, or a square if all maps are, or a row."""
        side = math.isqrt(count)
        square = side * side == count and side > 1 and all(len({*shape}) == 1 for shape in self.values())
        return self.get(count, (side, side) if square else (count,))


@dataclass(frozen=True)
class AttentionSite:
    """An attention module, the module around it, if any, and the layout of its tokens.

    The first `extra` tokens and the last `trailing` ones have no place. They and `class_token` (whether the
    first token is a class token) come from attributes of the model; `extra` is None if there are none.
    """

    module: Any
    parent: nn.Module | None
    features: FeatureShapes
    extra: int | None = None
    class_token: bool = False
    trailing: int = 0

    @classmethod
    def from_owners(cls, owners: list[nn.Module], features: FeatureShapes) -> AttentionSite:
        """Read the layout from the module itself or the nearest module around it that has the attributes."""
        site = cls(owners[-1], owners[-2] if len(owners) > 1 else None, features)
        for owner in reversed(owners):
            class_token = any(isinstance(getattr(owner, name, None), Tensor) for name in _CLASS_TOKENS)
            extra = getattr(owner, "num_prefix_tokens", None)
            is_counted = isinstance(extra, int) and hasattr(owner, "cls_token")
            if is_counted or class_token:
                first = extra if is_counted else 1
                trailing = _count(getattr(owner, _LAST_TOKENS, None))
                return replace(site, extra=first, class_token=class_token, trailing=trailing)
        # Other libraries keep the tokens in an embedding beside the blocks.
        found = {name.rpartition(".")[2]: tokens for name, tokens in owners[0].named_parameters()}
        if class_token := bool(found.keys() & {*_CLASS_TOKENS}):
            more = sum(_count(found.get(name)) for name in _MORE_TOKENS)
            trailing = _count(found.get(_LAST_TOKENS))
            return replace(site, extra=1 + more, class_token=class_token, trailing=trailing)
        return site

    def is_captured(self) -> bool:
        """Return whether the attention was captured by its operations when the module ran last."""
        return self.module in self.features.captured

    def are_sets(self, *tokens: Tensor) -> tuple[bool, ...]:
        """Return whether the tokens of each tensor have no places."""
        return tuple(x in self.features.sets for x in tokens)

    def split(self, count: int, *, is_set: bool = False) -> tuple[int, bool, tuple[int, ...]]:
        """Return how many of `count` tokens have no place, whether one is a class token, and the grid.

        A set is a row of tokens.
        """
        if is_set:
            return 0, False, (count,)
        known = self.extra is not None
        extras = (self.extra or 0, 0) if known else (0, 1)
        fits = self.features.__contains__ if self.features or not known else _is_square
        extra = next((n for n in extras if fits(count - n)), extras[0])
        extra = extra if extra < count else 0
        return extra, extra > 0 and (self.class_token or not known), self.features.grid(count - extra)

    def build_map(
        self,
        queries: Tensor,
        keys: Tensor,
        scale: float,
        bias: Tensor | None = None,
        *,
        more_keys: int = 0,
        sets: tuple[bool, ...] = (False, False),
    ) -> PairwiseMap:
        """Return the map of queries `(B, heads, Q, D)`, keys `(B, heads, K, D)` and a bias of the logits.

        The first `more_keys` keys are no tokens. `sets` says whether queries and keys are sets of tokens
        without places.
        """
        first = (self.extra or 0) + self.trailing
        is_alike = queries.shape[2] == keys.shape[2] and not more_keys and not any(sets)
        if self.trailing and bias is None and is_alike:
            site = replace(self, extra=first, trailing=0)
            return site.build_map(self.trailing_first(queries), self.trailing_first(keys), scale)
        extra, class_token, query_shape = self.split(queries.shape[2], is_set=sets[0])
        extra_keys, _, key_shape = self.split(keys.shape[2] - more_keys, is_set=sets[1])
        extra_keys += more_keys
        extra_queries, queries = queries.tensor_split([extra], dim=2)
        keys_of_extra, keys = keys.tensor_split([extra_keys], dim=2)
        grids = scale, query_shape, key_shape
        if not extra and not extra_keys and bias is None:
            return PairwiseMap(queries, keys, *grids)
        kind = ClassTokenMap if class_token else TokenMap
        bias = None if bias is None else bias.detach()
        return kind(queries, keys, *grids, extra_queries, keys_of_extra, bias)

    def trailing_first(self, x: Tensor) -> Tensor:
        """Move the last tokens of (B, heads, N, D) that have no place behind the first ones."""
        front, places, last = x.tensor_split([self.extra or 0, x.shape[2] - self.trailing], dim=2)
        return torch.cat([front, last, places], 2)


def _count(tokens: Any) -> int:
    """Return the number of learned tokens (1, N, C), or 0 if there are none."""
    return tokens.shape[-2] if isinstance(tokens, Tensor) else 0


def _is_square(count: int) -> bool:
    return count > 1 and math.isqrt(count) ** 2 == count


def mask_to_bias(mask: Tensor | None, dtype: torch.dtype, *, visible: bool) -> Tensor | None:
    """Return a mask as a bias of the logits; True in the mask means visible or hidden."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    hidden = ~mask if visible else mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(hidden, -torch.inf)
