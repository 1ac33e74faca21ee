"""How the tokens of a network lie: which of them have no place, and the grid of those that do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.maps import ClassTokenMap, PairwiseMap, TokenMap
from saccade.recording.adapters.observe import Handle

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
#: Modules whose results are feature maps, of the shape that tokens are later cut from.
_FEATURES = (
    nn.modules.conv._ConvNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


class FeatureShapes:
    """The shapes of the feature maps that a network has made so far, by their number of positions.

    They say how tokens lie whatever the size of the image, also where it is not square.
    """

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[int, ...]] = {}

    def watch(self, module: nn.Module) -> list[Handle]:
        """Note what `module` makes, if it makes feature maps."""
        if not isinstance(module, _FEATURES):
            return []
        return [module.register_forward_hook(self._note)]

    def _note(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, tuple):  # a pooling that returns indices, too
            output = output[0]
        shape, count = tuple(output.shape[2:]), math.prod(output.shape[2:])
        if count > 1 and (len(shape) > 1 or count not in self._shapes):  # a sequence may be an image in a row
            self._shapes[count] = shape

    def __contains__(self, count: int) -> bool:
        return count in self._shapes

    def of(self, count: int) -> tuple[int, ...]:
        """The grid of `count` places: a feature map's; if there was none at all, a square; else a row."""
        side = math.isqrt(count)
        square = not self._shapes and side * side == count and side > 1
        return self._shapes.get(count, (side, side) if square else (count,))


@dataclass(frozen=True)
class Layout:
    """The tokens of one attention: `extra` of them, before the others, have no place.

    `extra` and `class_token`, whether the first is a class token, are what the network's attributes say;
    `extra` is None where they say nothing.
    """

    features: FeatureShapes
    extra: int | None = None
    class_token: bool = False

    @classmethod
    def of(cls, owners: list[nn.Module], features: FeatureShapes) -> Layout:
        """Read it from the module itself or the nearest of those around it that says."""
        for owner in reversed(owners):
            classes = [getattr(owner, name, None) for name in _CLASS_TOKENS]
            class_token = any(isinstance(token, Tensor) for token in classes)
            extra = getattr(owner, "num_prefix_tokens", None)
            if isinstance(extra, int) and hasattr(owner, "cls_token"):
                return cls(features, extra, class_token)
            if class_token:
                return cls(features, 1, True)
        return cls(features)

    def split(self, count: int) -> tuple[int, bool, tuple[int, ...]]:
        """Return for `count` tokens how many have no place, whether there is a class token, and the grid."""
        known = self.extra is not None
        extras = (self.extra or 0, 0) if known else (0, 1)
        extra = next((n for n in extras if count - n in self.features), extras[0])
        if extra >= count:
            extra = 0
        return extra, extra > 0 and (self.class_token or not known), self.features.of(count - extra)

    def map(
        self, queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None, *, more_keys: int = 0
    ) -> PairwiseMap:
        """Build the map of queries `(B, heads, Q, D)` and keys `(B, heads, K, D)`, logits plus `bias`.

        `more_keys` keys at the start are no tokens.
        """
        extra, class_token, query_shape = self.split(queries.shape[2])
        extra_keys, _, key_shape = self.split(keys.shape[2] - more_keys)
        extra_keys += more_keys
        grids = scale, query_shape, key_shape
        queries, keys = queries.detach(), keys.detach()
        if not extra and not extra_keys and bias is None:
            return PairwiseMap(queries, keys, *grids)
        kind = ClassTokenMap if class_token else TokenMap
        return kind(
            queries[:, :, extra:],
            keys[:, :, extra_keys:],
            *grids,
            extra_queries=queries[:, :, :extra],
            extra_keys=keys[:, :, :extra_keys],
            bias=None if bias is None else bias.detach(),
        )


@dataclass(frozen=True)
class Site:
    """One attention of a network, the module that holds it, if any, and how its tokens lie."""

    module: Any
    parent: nn.Module | None
    layout: Layout


def bias_of(mask: Tensor | None, dtype: torch.dtype, *, visible: bool) -> Tensor | None:
    """Return what a mask adds to the logits; its True means `visible`, or hidden."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    hidden = ~mask if visible else mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(hidden, -torch.inf)
