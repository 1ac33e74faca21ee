"""Attention maps: typed records of where a mechanism looked, each able to draw itself as a heat map.

All maps are detached from the graph. `B` is the batch; `S...` stands for the spatial axes, one to
three of them (`L` of a sequence, `H, W` of an image, `T, H, W` of a clip).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadShape

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_STRONGEST = 8  # channels of which a channel map keeps the features


class AttentionMap(ABC):
    """What a mechanism attended to, for one forward pass."""

    kind: str

    @abstractmethod
    def saliency(self) -> Tensor:
        """Return the map's own answer to "how much weight is here?", `(B, S...)`, in its own units."""

    def heatmap(self, size: tuple[int, ...] | None = None) -> Tensor:
        """Return `saliency` resized to `size` and scaled to [0, 1] image by image, `(B, *size)`.

        A map that is the same everywhere prefers no place: it is drawn as zeros.

        Raises `BadShape` if `size` has another number of axes than the map.
        """
        heat = self.saliency().detach().float()
        if size is not None:
            if len(size) != heat.ndim - 1:
                raise BadShape(
                    f"size {tuple(size)} has {len(size)} axes, the {self.kind} map {heat.ndim - 1}"
                )
            heat = F.interpolate(heat.unsqueeze(1), size, mode=_INTERPOLATION[len(size)])[:, 0]
        flat = heat.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        span = high - low
        unit = (flat - low) / torch.where(span > 0, span, torch.ones_like(span))
        return unit.reshape(heat.shape)


@dataclass(frozen=True, eq=False)
class ChannelMap(AttentionMap):
    """One weight per channel, `weights` `(B, C)`, and the `energy` `(B, S...)` that they let through.

    A channel gate has no place of its own. Its heat map is the energy sum_c w_c |x_c| of the features
    that it re-weights, which `ChannelMap.of` computes. It also keeps the channels that add most to it:
    their numbers `top_channels` `(B, k)`, by the mean of w_c |x_c|, and their `features` x_c `(B, k, S...)`;
    a few of them, since all would keep the memory of the forward pass alive.
    """

    weights: Tensor
    energy: Tensor
    top_channels: Tensor | None = None
    features: Tensor | None = None
    kind = "channel"

    @classmethod
    def of(cls, weights: Tensor, features: Tensor) -> ChannelMap:
        """Build the map from weights `(B, C)` and the features `(B, C, S...)` that they multiply.

        >>> import torch
        >>> recorded = ChannelMap.of(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 3, 3))
        >>> recorded.heatmap().shape, recorded.top_channels.tolist()
        (torch.Size([1, 3, 3]), [[0, 1]])
        """
        weights, features = weights.detach(), features.detach()
        size = features.abs()
        energy = torch.einsum("bc,bc...->b...", weights, size)
        share = weights * size.flatten(2).mean(2)
        top_channels = share.topk(min(_STRONGEST, share.shape[1])).indices
        image = torch.arange(len(share), device=share.device).unsqueeze(1)
        return cls(weights, energy, top_channels, features[image, top_channels])

    def saliency(self) -> Tensor:
        return self.energy


@dataclass(frozen=True, eq=False)
class SpatialMap(AttentionMap):
    """One weight per position, `weights` `(B, S...)`.

    >>> import torch
    >>> SpatialMap(torch.rand(2, 6, 5)).heatmap((12, 10)).shape
    torch.Size([2, 12, 10])
    """

    weights: Tensor
    kind = "spatial"

    def saliency(self) -> Tensor:
        return self.weights


@dataclass(frozen=True, eq=False)
class BranchMap(AttentionMap):
    """One weight per branch and channel, `weights` `(B, M, C)`, and the `energy` `(B, S...)` let through.

    The weights choose among branches, not among places: they say at which reach a channel is read. The
    heat map is the energy sum_mc w_mc |u_mc| of the branches u_m that they mix, which `BranchMap.of`
    computes: where what was chosen is strong.

    >>> import torch
    >>> recorded = BranchMap.of(torch.rand(2, 3, 8).softmax(1), [torch.randn(2, 8, 6, 5) for _ in range(3)])
    >>> recorded.heatmap().shape
    torch.Size([2, 6, 5])
    """

    weights: Tensor
    energy: Tensor
    kind = "branch"

    @classmethod
    def of(cls, weights: Tensor, branches: Sequence[Tensor]) -> BranchMap:
        """Build the map from weights `(B, M, C)` and the M branches `(B, C, S...)` that they mix."""
        parts = [
            torch.einsum("bc,bc...->b...", share, branch.abs())
            for share, branch in zip(weights.detach().unbind(1), branches, strict=True)
        ]
        return cls(weights.detach(), torch.stack(parts).sum(0).detach())

    def saliency(self) -> Tensor:
        return self.energy
