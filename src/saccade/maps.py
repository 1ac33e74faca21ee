"""Attention maps: typed records of where a mechanism looked, each able to draw itself as a heat map.

All maps are detached from the graph. `B` is the batch; `S...` stands for the spatial axes, one to
three of them (`L` of a sequence, `H, W` of an image, `T, H, W` of a clip).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadShape

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_STRONGEST = 8  # channels of which a channel map keeps the features
_CHUNK = 1 << 22  # weights held at a time when pairwise rows are reduced


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
    their numbers `strongest` `(B, k)`, by the mean of w_c |x_c|, and their `features` x_c `(B, k, S...)`;
    a few of them, since all would keep the memory of the forward pass alive.
    """

    weights: Tensor
    energy: Tensor
    strongest: Tensor | None = None
    features: Tensor | None = None
    kind = "channel"

    @classmethod
    def of(cls, weights: Tensor, features: Tensor) -> ChannelMap:
        """Build the map from weights `(B, C)` and the features `(B, C, S...)` that they multiply.

        >>> import torch
        >>> recorded = ChannelMap.of(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 3, 3))
        >>> recorded.heatmap().shape, recorded.strongest.tolist()
        (torch.Size([1, 3, 3]), [[0, 1]])
        """
        weights, features = weights.detach(), features.detach()
        size = features.abs()
        energy = torch.einsum("bc,bc...->b...", weights, size)
        share = weights * size.flatten(2).mean(2)
        strongest = share.topk(min(_STRONGEST, share.shape[1])).indices
        image = torch.arange(len(share), device=share.device).unsqueeze(1)
        return cls(weights, energy, strongest, features[image, strongest])

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
class PairwiseMap(AttentionMap):
    """Softmax weights between every query and every key, kept as their factors.

    The weights are `softmax(scale * queries @ keys^T)`, `(B, heads, Nq, Nk)`; only `queries`
    `(B, heads, Nq, D)` and `keys` `(B, heads, Nk, D)` are stored, so one row or the column mean of a
    128 x 128 image can be asked for without its 268 million weights.

    >>> import torch
    >>> q = torch.randn(1, 2, 16, 8)
    >>> pairs = PairwiseMap(q, q, scale=8**-0.5, query_shape=(4, 4), key_shape=(4, 4))
    >>> pairs.attend(y=1, x=3).shape          # where does row 1, column 3 look?
    torch.Size([1, 4, 4])
    >>> round(pairs.received().sum().item(), 4)
    1.0
    """

    queries: Tensor
    keys: Tensor
    scale: float
    query_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    kind = "pairwise"
    sums_to_one = True  # every row of weights; not so in some of `saccade.pairwise_maps`

    def rows(self, queries: Tensor) -> Tensor:
        """Return the weights of the given queries `(B, heads, n, D)`: `(B, heads, n, Nk)`.

        They are computed in float32 at least, and in float64 from float64 factors.
        """
        dtype = torch.promote_types(queries.dtype, torch.float32)
        logits = self.scale * queries.to(dtype) @ self.keys.to(dtype).transpose(-2, -1)
        return logits.softmax(dim=-1)

    def weights(self) -> Tensor:
        """Return all weights, `(B, heads, Nq, Nk)`. This is the large tensor that nothing else builds."""
        return self._rows_at(slice(None))

    def attend(
        self, *, y: int | None = None, x: int | None = None, t: int | None = None, head: int | None = None
    ) -> Tensor:
        """Return where the query at a position looks, `(B, *key_shape)`; the mean over heads unless named.

        Positions are in the map's own grid: `x` of a sequence, `y, x` of an image, `t, y, x` of a clip.

        Raises `BadShape` if an axis is missing, superfluous or out of range.
        """
        place = self._index(t, y, x)
        row = self._rows_at(slice(place, place + 1))
        return self._heads(row, head).reshape(-1, *self.key_shape)

    def received(self, head: int | None = None) -> Tensor:
        """Return the weight that each position receives, the mean over queries, `(B, *key_shape)`.

        It sums to 1 if rows do. The queries are taken a few at a time: memory grows with Nk, not Nq * Nk.
        """
        batch, count = self.queries.shape[0], math.prod(self.query_shape)
        dtype = torch.promote_types(self.queries.dtype, torch.float32)
        equal = torch.full((batch, count), 1 / count, dtype=dtype, device=self.queries.device)
        return self.carry(equal, head).reshape(-1, *self.key_shape)

    def carry(self, shares: Tensor, head: int | None = None) -> Tensor:
        """Return shares @ A, where `shares` `(B, Nq)`, looking through the weights A, end up: `(B, Nk)`.

        A is the mean over heads unless one is named. Memory grows with Nk, not Nq * Nk.
        """
        sums = [
            (shares[:, None, part].to(rows) @ rows).squeeze(1)
            for part in self._parts(math.prod(self.query_shape))
            for rows in [self._heads(self._rows_at(part), head)]
        ]
        return torch.stack(sums).sum(0)

    def tokens(self) -> PairwiseMap:
        """Return the same weights among all tokens in a row, those without a place, if any, first.

        >>> import torch
        >>> q = torch.randn(1, 2, 16, 8)
        >>> PairwiseMap(q, q, 8**-0.5, (4, 4), (4, 4)).tokens().query_shape
        (16,)
        """
        shapes = (math.prod(self.query_shape),), (math.prod(self.key_shape),)
        return replace(self, query_shape=shapes[0], key_shape=shapes[1])

    def saliency(self) -> Tensor:
        return self.received()

    def _rows_at(self, places: slice) -> Tensor:
        """Return the weights of the queries at these places, `(B, heads, n, Nk)`."""
        return self.rows(self.queries[:, :, places])

    def _parts(self, count: int) -> Iterator[slice]:
        """Split `count` queries into as many at a time as memory allows."""
        step = max(1, _CHUNK // self._row_size)
        return (slice(start, start + step) for start in range(0, count, step))

    @property
    def _row_size(self) -> int:
        """The numbers held for one row of each image and head."""
        return self.keys[..., 0].numel()

    def _heads(self, weights: Tensor, head: int | None) -> Tensor:
        if head is None:
            return weights.mean(1)
        if not 0 <= head < weights.shape[1]:
            raise BadShape(
                f"head={head} is not one of the {weights.shape[1]} heads, 0 to {weights.shape[1] - 1}"
            )
        return weights[:, head]

    def _index(self, t: int | None, y: int | None, x: int | None) -> int:
        axes = {1: ("x",), 2: ("y", "x"), 3: ("t", "y", "x")}[len(self.query_shape)]
        given = {name: value for name, value in (("t", t), ("y", y), ("x", x)) if value is not None}
        if set(given) != set(axes):
            raise BadShape(
                f"a map of shape {self.query_shape} is addressed by {', '.join(axes)}, not {given}"
            )
        index = 0
        for name, extent in zip(axes, self.query_shape, strict=True):
            if not 0 <= given[name] < extent:
                raise BadShape(f"{name}={given[name]} is outside the map of shape {self.query_shape}")
            index = index * extent + given[name]
        return index


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
