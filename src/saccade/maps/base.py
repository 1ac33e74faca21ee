"""The base class of attention maps, and maps of channels, positions and branches.

All maps are detached from the autograd graph. B is the batch size; `S...` stands for one to three spatial
axes: `L` for a sequence, `H, W` for an image, `T, H, W` for a video clip.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadShape

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_TOP_CHANNELS = 8  # a channel map keeps the features of this many channels
_CACHED = 1 << 18  # values of features whose magnitudes are held at a time


def normalize(heat: Tensor) -> Tensor:
    """Scale each image of a batch linearly to [0, 1].

    Args:
        heat: Values of shape (B, ...).

    Returns:
        A tensor of the same shape. An image of equal values becomes zeros.

    Example:
        >>> import torch
        >>> normalize(torch.tensor([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]])).tolist()
        [[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]]
    """
    flat = heat.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = high - low
    return ((flat - low) / torch.where(span > 0, span, torch.ones_like(span))).reshape(heat.shape)


class AttentionMap(ABC):
    """The attention of one mechanism in one forward pass.

    Attributes:
        kind: Short name of the kind of map, for example "spatial".
        shared_fields: Names of the tensors without a batch axis, which all images share.
        has_place: Whether the weights belong to positions, and not to channels or branches.
    """

    kind: str
    has_place: ClassVar[bool] = True
    shared_fields: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def saliency(self) -> Tensor:
        """Return the weight of each position, (B, S...), in the units of the map."""

    def heatmap(self, size: tuple[int, ...] | None = None) -> Tensor:
        """Return `saliency` resized to `size` and scaled to [0, 1] per image.

        Args:
            size: Spatial shape of the result; by default, that of the map. Resizing is linear and precedes
                scaling.

        Returns:
            A float32 tensor (B, *size). A constant map becomes zeros.

        Raises:
            BadShape: If `size` and the map differ in the number of axes.
        """
        heat = self.saliency().detach().float()
        if size is not None:
            axes = heat.ndim - 1
            if len(size) != axes:
                message = f"size {tuple(size)} has {len(size)} axes, but the {self.kind} map has {axes}"
                raise BadShape(message, owner=type(self).__name__, option="size", value=tuple(size))
            heat = F.interpolate(heat.unsqueeze(1), size, mode=_INTERPOLATION[axes])[:, 0]
        return normalize(heat)


@dataclass(frozen=True, eq=False)
class ChannelMap(AttentionMap):
    """One weight per channel, with the energy of the weighted features at each position.

    A channel gate has no spatial extent. Its heat map is the energy sum_c w_c |x_c| of the features x that
    it weights. The map also keeps the features of the few channels with the largest mean of w_c |x_c|;
    keeping all channels would retain the memory of the forward pass. `ChannelMap.of` computes all fields.

    Args:
        weights: Weights w, (B, C).
        energy: Energy at each position, (B, S...).
        top_channels: Indices of the k channels that contribute most to the energy, (B, k).
        features: Features x of these channels, (B, k, S...).
    """

    weights: Tensor
    energy: Tensor
    top_channels: Tensor | None = None
    features: Tensor | None = None
    kind = "channel"
    has_place = False

    @classmethod
    def of(cls, weights: Tensor, features: Tensor) -> ChannelMap:
        """Build the map from weights (B, C) and the features (B, C, S...) that they multiply.

        Example:
            >>> import torch
            >>> channel_map = ChannelMap.of(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 3, 3))
            >>> channel_map.heatmap().shape, channel_map.top_channels.tolist()
            (torch.Size([1, 3, 3]), [[0, 1]])
        """
        weights, features = weights.detach(), features.detach()
        energy, mean = _energy(weights, features)
        contribution = weights * mean
        top_channels = contribution.topk(min(_TOP_CHANNELS, contribution.shape[1])).indices
        image = torch.arange(contribution.shape[0], device=contribution.device).unsqueeze(1)
        return cls(weights, energy, top_channels, features[image, top_channels])

    def saliency(self) -> Tensor:
        return self.energy


def _energy(weights: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_c w_c |x_c| at each position, (B, S...), and the mean of |x_c|, (B, C).

    On the CPU, a few images are taken at a time, whose magnitudes fit the cache.
    """
    parts = [(weights, features)]
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, _CACHED // max(1, math.prod(features.shape[1:])))
        parts = list(zip(weights.split(step), features.split(step), strict=True))
    energies, means = [], []
    for of_images, x in parts:
        magnitude = x.abs()
        energies.append(torch.einsum("bc,bc...->b...", of_images, magnitude))
        means.append(magnitude.flatten(2).mean(2))
    return torch.cat(energies), torch.cat(means)


@dataclass(frozen=True, eq=False)
class SpatialMap(AttentionMap):
    """One weight per position.

    Args:
        weights: Weights, (B, S...).

    Example:
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
    """One weight per branch and channel, with the energy of the weighted branches at each position.

    The weights select among branches (receptive fields), not among positions. The heat map is the energy
    sum_mc w_mc |u_mc| of the branches u_m: the magnitude of the selected features. `BranchMap.of` computes
    it.

    Args:
        weights: Weights w, (B, M, C), for M branches.
        energy: Energy at each position, (B, S...).

    Example:
        >>> import torch
        >>> weights, branches = torch.rand(2, 3, 8).softmax(1), [torch.randn(2, 8, 6, 5) for _ in range(3)]
        >>> BranchMap.of(weights, branches).heatmap().shape
        torch.Size([2, 6, 5])
    """

    weights: Tensor
    energy: Tensor
    kind = "branch"
    has_place = False

    @classmethod
    def of(cls, weights: Tensor, branches: Sequence[Tensor]) -> BranchMap:
        """Build the map from weights (B, M, C) and the M branches (B, C, S...) that they mix."""
        pairs = zip(weights.detach().unbind(1), branches, strict=True)
        energies = [torch.einsum("bc,bc...->b...", weight, branch.abs()) for weight, branch in pairs]
        return cls(weights.detach(), torch.stack(energies).sum(0).detach())

    def saliency(self) -> Tensor:
        return self.energy
