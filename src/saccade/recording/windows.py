"""Windows of a model on the grid of the whole image, from the positions of their tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.maps import PairwiseMap, TokenMap, WindowMap
from saccade.recording.captured_maps import agrees
from saccade.recording.labels import is_constant
from saccade.recording.operations import Logits
from saccade.recording.positions import Route

_TOLERANCE = 1e-2  # of factors, relative to the largest weight
_LEAST = -1e4  # stands for the logarithm of a weight of 0


@dataclass(frozen=True, eq=False)
class Places:
    """Where a model has put the positions of its feature maps: in groups of tokens.

    There is one group for each image, window and head.

    Args:
        order: Numbers of the groups, sorted by image, window and head, (B * windows * heads,).
        sources: Position of each token of each window where the route starts, -1 for padding, (windows, n).
        inside: The same in the map that the windows fill.
        grid: Shape of this map.
    """

    order: Tensor
    sources: Tensor
    inside: Tensor
    grid: tuple[int, ...]

    @classmethod
    def find(cls, route: Route, batch: int) -> Places | None:
        """Return the places of tokens (..., n, D), or None unless each position is in one window."""
        labels = _labels_of_tokens(route)
        if labels is None:
            return None
        count = math.prod(route.grid)
        image = labels.amax(1, keepdim=True) // count
        inside = torch.where(labels < 0, labels, labels - image * count)
        if bool((inside < -1).any()):  # a window of several images
            return None
        windows, group, sizes = torch.cat([image, inside], 1).unique(
            dim=0, return_inverse=True, return_counts=True
        )
        if len(windows) % batch or len(sizes.unique()) > 1:
            return None
        by_image = windows.unflatten(0, (batch, -1))
        expected = by_image[:1].repeat(batch, 1, 1)
        expected[..., 0] = torch.arange(batch)[:, None]
        if not torch.equal(by_image, expected):
            return None
        sources = by_image[0, :, 1:].long()
        whole = _whole_grid(sources, route.grid, is_certain=route.start.is_flat)
        return None if whole is None else cls(group.argsort(stable=True), sources, *whole)

    def are_within(self, other: Places) -> bool:
        """Return whether each token is at the place of one of the other tokens of its window."""
        return bool((self.sources[:, :, None] == other.sources[:, None]).any(2).all())


@dataclass(frozen=True, eq=False)
class Partition:
    """How a model cuts its feature maps into windows, or in which order it takes all of their positions.

    Args:
        queries: Places of the queries.
        keys: Places of the keys.
        batch: Number of images.
    """

    queries: Places
    keys: Places
    batch: int

    @classmethod
    def find(cls, queries: Route, keys: Route, batch: int) -> Partition | None:
        """Return the partition of queries and keys with these routes, each (..., n, D), or None.

        There is none unless the queries of a window are at places of its keys, or all positions are in one
        window. A model that pools queries keeps the last of the places that it pools.
        """
        if queries.start is not keys.start:
            return None
        places, of_keys = Places.find(queries, batch), Places.find(keys, batch)
        if places is None or of_keys is None or not torch.equal(places.order, of_keys.order):
            return None
        found = cls(places, of_keys, batch)
        return found if found._is_whole or places.are_within(of_keys) else None

    def build_map(self, logits: Logits | None, weights: Tensor | None) -> PairwiseMap:
        """Return the map from the logits, if they are known and give the weights, or from the weights."""
        attention = None if logits is None else self._map_of_logits(logits)
        if weights is None and logits is not None:
            return attention or self._map_of_weights(self._pairs(logits.weights()))
        if weights is None:
            raise ValueError("neither logits nor weights are known")
        known = self._pairs(weights)
        return attention if attention and self._agrees(attention, known) else self._map_of_weights(known)

    @property
    def is_plain(self) -> bool:
        """Return whether all positions attend to all, in their order in the image."""
        return self._is_whole and all(
            bool((x.inside[0].diff() == 1).all()) for x in (self.queries, self.keys)
        )

    @property
    def _is_whole(self) -> bool:
        """Return whether all positions attend to all."""
        return len(self.queries.inside) == 1 and all(_is_full(x) for x in (self.queries, self.keys))

    def _rows(self, x: Tensor, places: Places) -> Tensor:
        """Return tokens (..., n, D) as (B, heads, windows, n, D); one window is sorted by position."""
        groups = x.flatten(0, -3)[places.order.to(x.device)]
        tokens: Tensor = groups.unflatten(0, (self.batch, len(places.inside), -1)).transpose(1, 2)
        return tokens[:, :, :, places.inside[0].argsort().to(x.device)] if self._is_whole else tokens

    def _pairs(self, x: Tensor) -> Tensor:
        """Return weights or a bias (..., Nq, Nk) as (B, heads, windows, Nq, Nk)."""
        rows = self._rows(x, self.queries)
        return rows[..., self.keys.inside[0].argsort().to(x.device)] if self._is_whole else rows

    def _map_of_logits(self, logits: Logits) -> PairwiseMap | None:
        """Return the map of queries and keys, or None if images have a bias of their own in windows."""
        shape = *logits.queries.shape[:-1], logits.keys.shape[-2]
        bias = None if logits.bias is None else self._pairs(logits.bias.detach().expand(shape))
        queries, keys = self._rows(logits.queries, self.queries), self._rows(logits.keys, self.keys)
        if self._is_whole:
            return self._whole_map(queries, keys, logits.scale, bias)
        if bias is None:
            return self._window_map(queries, keys, logits.scale, _no_bias(queries, keys))
        is_shared = all(torch.equal(of_image, bias[0]) for of_image in bias[1:])
        return self._window_map(queries, keys, logits.scale, bias[0]) if is_shared else None

    def _map_of_weights(self, weights: Tensor) -> PairwiseMap:
        """Return the map of known weights a = softmax(log a)."""
        logits = weights.log().clamp(min=_LEAST)
        if self._is_whole:
            rows, columns = logits[..., :1], logits[..., :1, :].mT
            return self._whole_map(torch.zeros_like(rows), torch.zeros_like(columns), 1.0, logits)
        units = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        units = units.expand(*logits.shape[:-2], -1, -1)
        return self._window_map(logits, units, 1.0, _no_bias(logits, units))

    def _whole_map(self, queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None) -> PairwiseMap:
        queries, keys = queries[:, :, 0], keys[:, :, 0]
        grids = scale, self.queries.grid, self.keys.grid
        if bias is None:
            return PairwiseMap(queries, keys, *grids)
        return TokenMap(queries, keys, *grids, queries[:, :, :0], keys[:, :, :0], bias[:, :, 0])

    def _window_map(self, queries: Tensor, keys: Tensor, scale: float, bias: Tensor) -> WindowMap:
        places, of_keys = (x.inside.to(queries.device) for x in (self.queries, self.keys))
        return WindowMap(
            queries,
            keys,
            scale,
            self.queries.grid,
            self.keys.grid,
            places=places,
            bias=bias,
            key_places=None if torch.equal(places, of_keys) else of_keys,
        )

    def _agrees(self, attention: PairwiseMap, weights: Tensor) -> bool:
        """Return whether a map has the weights that the model has computed."""
        if not isinstance(attention, WindowMap):
            return agrees(attention, weights[:, :, 0])
        return bool((attention.window_weights() - weights).abs().max() <= _TOLERANCE * weights.max())


def _no_bias(queries: Tensor, keys: Tensor) -> Tensor:
    """Return zeros for all pairs of tokens, which take no memory."""
    return queries.new_zeros(()).expand(1, 1, queries.shape[-2], keys.shape[-2])


def _is_full(places: Places) -> bool:
    return bool((places.inside >= 0).all())


def _labels_of_tokens(route: Route) -> Tensor | None:
    """Return the label of each token, (groups, n), or None if they cannot be told or its values differ."""
    try:
        labels = route.labels()
    except (RuntimeError, TypeError, ValueError, IndexError):  # an unusual operation
        return None
    route.keep(labels)
    if labels.ndim < 3 or not is_constant(labels, -1):
        return None
    places = labels[..., 0].flatten(0, -2)
    return None if bool((places < -1).any()) else places


def _whole_grid(
    places: Tensor, grid: tuple[int, ...], *, is_certain: bool
) -> tuple[Tensor, tuple[int, ...]] | None:
    """Return places in the grid that windows (windows, n) fill, and this grid, or None if they fill none.

    The grid is coarser than that of the features if the model pools between them and the windows. Rows or
    columns are windows if it is certain that the route starts at a map.
    """
    is_inside = places >= 0
    inside = places[is_inside]
    number, sides = torch.zeros_like(inside), list[int]()
    for axis, extent in zip(torch.unravel_index(inside, grid), grid, strict=True):
        values, rank = axis.unique(return_inverse=True)
        steps = values.diff().unique().tolist() or [extent]
        if len(steps) > 1 or values[0] >= steps[0] or extent - values[-1] > steps[0]:
            return None
        number, sides = number * len(values) + rank, [*sides, len(values)]
    if len(number.unique()) != len(number) or len(number) != math.prod(sides):
        return None
    lines = (
        torch.arange(len(number)).reshape(sides[0], -1),
        torch.arange(len(number)).reshape(-1, sides[-1]).T,
    )
    is_line = any(torch.equal(places, line) for line in lines)
    if is_line and not is_certain:  # perhaps windows that were cut before
        return None
    return places.masked_scatter(is_inside, number), tuple(sides)
